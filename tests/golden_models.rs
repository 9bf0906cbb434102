//! Text encoder, UNet and VAE against values that PyTorch and diffusers computed (`tests/fixtures/golden`).
//!
//! `PORTRAY_BACKEND=reference` runs every op's f64 reference in place of the kernels, which needs no GPU.

mod common;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::OnceLock;

use common::close;
use portray::base::{Array, DType, layout};
use portray::gpu::{Gpu, Pool, Store, Variants};
use portray::graph::{Graph, Plan, PlanOptions, Session, Tensor, eval};
use portray::io::SafeTensors;
use portray::io::checkpoints::{Checkpoint, Part};
use portray::models::{Context, TextEncoder, TextEncoderConfig, UNet, UnetConfig, Vae, VaeConfig};
use portray::nn::weights::{self, HostTensor};
use portray::nn::{LoraSpec, Mode, Param, Role, Scope, Settings, Targets, lora};

const KINDS: [&str; 2] = ["sd2", "sd15"];
const MODES: [Mode; 2] = [Mode::Inference, Mode::Training];

/// One golden model with its recorded values.
struct Golden {
    kind: &'static str,
    model: Checkpoint,
    values: SafeTensors,
    backend: Backend,
}

/// One device for all tests, so that each kernel is compiled once.
static GPU: OnceLock<Gpu> = OnceLock::new();

enum Backend {
    Reference,
    Gpu(&'static Gpu),
}

/// A LoRA file's factors, as `lora.<path>.down` and `.up`.
type Factors = BTreeMap<String, HostTensor<'static>>;

fn fixture(name: &str) -> String {
    format!("{}/tests/fixtures/golden/{name}", env!("CARGO_MANIFEST_DIR"))
}

impl Golden {
    fn open(kind: &'static str) -> Golden {
        let reference = std::env::var("PORTRAY_BACKEND").is_ok_and(|b| b == "reference");
        Golden {
            kind,
            model: Checkpoint::open(fixture(kind)).unwrap(),
            values: SafeTensors::open(fixture(&format!("{kind}.safetensors"))).unwrap(),
            backend: if reference { Backend::Reference } else { Backend::Gpu(GPU.get_or_init(common::gpu)) },
        }
    }

    fn f32(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let tensor = self.values.get(name).unwrap();
        (tensor.shape.to_vec(), tensor.to_f32().unwrap())
    }

    /// A recorded picture, channels last.
    fn picture(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let (shape, values) = self.f32(name);
        let [n, c, h, w] = shape[..] else { panic!("{name} is {shape:?}") };
        (vec![n, h, w, c], layout::to_channels_last(&values, [n, c, h, w]))
    }

    fn config(&self, part: Part) -> (String, String) {
        let weights = self.model.part(part);
        (format!("{}/config.json", part.name()), weights.config().to_string())
    }

    /// A LoRA file in PEFT's layout.
    fn factors(&self, file: &str) -> Factors {
        let file = SafeTensors::open(fixture(&format!("{}{file}.lora-peft.safetensors", self.kind))).unwrap();
        file.iter()
            .map(|t| {
                let key = t.name.replace(".lora_A.weight", ".down").replace(".lora_B.weight", ".up");
                (format!("lora.{key}"), HostTensor { shape: t.shape.to_vec(), values: t.to_f32().unwrap().into() })
            })
            .collect()
    }

    fn source(&self, key: &str, shape: &[usize]) -> portray::Result<HostTensor<'static>> {
        let (part, name) = key.split_once('.').unwrap();
        let part = Part::ALL.into_iter().find(|p| p.name() == part).unwrap();
        let tensor = self.model.part(part).get_shaped(name, shape)?;
        Ok(HostTensor { shape: tensor.shape.to_vec(), values: Cow::Owned(tensor.to_f32()?) })
    }

    /// Runs `g`, whose parameters are `params`, and reads `output`. `merged` factors are added to the weights, `beside`
    /// fills the adapters.
    fn run(
        &self,
        g: Graph,
        params: &[Param],
        inputs: Vec<(Tensor, Vec<f32>)>,
        output: Tensor,
        loras: &Loras,
    ) -> Vec<f32> {
        let patch = |key: &str, shape: &[usize], values: &mut [f32]| -> portray::Result<()> {
            let module = key.trim_end_matches(".weight");
            let factor = |name| loras.merged.get(&format!("lora.{module}.{name}"));
            match (factor("down"), factor("up")) {
                (Some(down), Some(up)) => lora::merge(values, shape, &down.values, &up.values, loras.scale),
                _ => Ok(()),
            }
        };
        match &self.backend {
            Backend::Reference => self.evaluate(&g, params, inputs, output, loras, &patch),
            Backend::Gpu(gpu) => pollster::block_on(async {
                let mut store = Store::new(gpu);
                weights::load(&mut store, self.kind, params, &|key, shape| self.source(key, shape), Some(&patch))?;
                let adapters: Vec<Param> = params.iter().filter(|p| p.role == Role::Adapter).cloned().collect();
                weights::allocate(&mut store, "lora", &adapters)?;
                for p in &adapters {
                    store.write(&p.key, &weights::pack(p, &[loras.beside[&p.key].clone()])?)?;
                }
                let plan = Plan::new(&g, gpu.caps(), &Variants::default(), &PlanOptions::default())?;
                println!("{}: {} dispatches", self.kind, plan.dispatch_count());
                let session = Session::new(gpu, plan, &mut Pool::default(), &store).await?;
                for (t, values) in &inputs {
                    match g.info(*t).dtype {
                        DType::U32 => session.write_ids(*t, &values.iter().map(|&x| x as u32).collect::<Vec<_>>())?,
                        _ => session.write(*t, values)?,
                    }
                }
                session.run()?;
                session.read(output).await
            })
            .unwrap(),
        }
    }

    fn evaluate(
        &self,
        g: &Graph,
        params: &[Param],
        inputs: Vec<(Tensor, Vec<f32>)>,
        output: Tensor,
        loras: &Loras,
        patch: weights::Patch,
    ) -> Vec<f32> {
        let by_key: HashMap<&str, &Param> = params.iter().map(|p| (p.key.as_str(), p)).collect();
        let mut given = HashMap::new();
        for (key, t) in g.stored_tensors() {
            let param = by_key[key];
            let tensors: Vec<HostTensor> = (param.sources.iter())
                .map(|s| {
                    if param.role == Role::Adapter {
                        return loras.beside[key].clone();
                    }
                    let mut tensor = self.source(&s.key, &s.shape).unwrap();
                    patch(&s.key, &s.shape, tensor.values.to_mut()).unwrap();
                    tensor
                })
                .collect();
            let bytes = weights::pack(param, &tensors).unwrap();
            let values: Vec<f32> = match param.dtype {
                DType::F16 => {
                    bytemuck::pod_collect_to_vec::<u8, half::f16>(&bytes).iter().map(|h| h.to_f32()).collect()
                }
                _ => bytemuck::pod_collect_to_vec(&bytes),
            };
            given.insert(t, Array::from_f32(param.shape.clone(), &values));
        }
        for (t, values) in inputs {
            given.insert(t, Array::from_f32(g.shape(t).clone(), &values));
        }
        eval(g, given).unwrap()[&output].to_f32()
    }

    fn text(&self, settings: Settings, loras: &Loras) -> Vec<f32> {
        let (path, config) = self.config(Part::TextEncoder);
        let scope = Scope::new("text_encoder", settings);
        let model = TextEncoder::new(&scope, TextEncoderConfig::parse(&path, &config).unwrap()).unwrap();
        let ids = self.values.get("text.input_ids").unwrap();
        let mut g = Graph::new();
        let input = g.input("ids", &*ids.shape, DType::U32);
        let out = model.forward(&mut g, input).unwrap();
        g.output(out);
        let ids = ids.to_i64().unwrap().iter().map(|&i| i as f32).collect();
        self.run(g, &scope.params(), vec![(input, ids)], out, loras)
    }

    fn unet(&self, settings: Settings, loras: &Loras) -> Vec<f32> {
        let (path, config) = self.config(Part::Unet);
        let scope = Scope::new("unet", settings.clone());
        let model = UNet::new(&scope, UnetConfig::parse(&path, &config).unwrap()).unwrap();
        let (sample, time, context) =
            (self.picture("unet.sample"), self.values.get("unet.timestep").unwrap(), self.f32("unet.context"));
        let mut g = Graph::new();
        let mut inputs = Vec::new();
        let mut input = |g: &mut Graph, name: &str, (shape, values): (Vec<usize>, Vec<f32>)| {
            let t = g.input(name, shape, DType::F32);
            inputs.push((t, values));
            t
        };
        let sample = input(&mut g, "sample", sample);
        let steps = time.to_i64().unwrap().iter().map(|&t| t as f32).collect();
        let time = input(&mut g, "timestep", (time.shape.to_vec(), steps));
        let hidden = input(&mut g, "context", context);
        let keys = model.context(&mut g, hidden).unwrap();
        let context =
            if settings.mode == Mode::Inference { Context::KeyValues(&keys) } else { Context::Hidden(hidden) };
        let out = model.forward(&mut g, sample, time, context).unwrap();
        g.output(out);
        self.run(g, &scope.params(), inputs, out, loras)
    }

    fn vae(&self, settings: Settings, input: &str) -> Vec<f32> {
        let (path, config) = self.config(Part::Vae);
        let config = VaeConfig::parse(&path, &config).unwrap();
        let scope = Scope::new("vae", settings);
        let mut g = Graph::new();
        let (shape, values) = self.picture(input);
        let x = g.input(input, shape, DType::F32);
        let out = if input == "vae.image" {
            Vae::encoder(&scope, config).unwrap().encode(&mut g, x).unwrap()
        } else {
            Vae::decoder(&scope, config).unwrap().decode(&mut g, x).unwrap()
        };
        g.output(out);
        self.run(g, &scope.params(), vec![(x, values)], out, &Loras::default())
    }

    /// Compares with a recorded tensor; prints how far off the values are.
    fn compare(&self, what: &str, name: &str, got: &[f32], expected: &[f32], tolerance: f64) {
        let expected: Vec<f64> = expected.iter().map(|&x| f64::from(x)).collect();
        let largest = expected.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        let worst = got.iter().zip(&expected).map(|(&g, e)| (f64::from(g) - e).abs()).fold(0.0, f64::max);
        println!("{} {name} {what}: off by {:.1e} of the largest", self.kind, worst / largest);
        if let Err(e) = close(got, &expected, tolerance) {
            panic!("{} {name} {what}: {e}", self.kind);
        }
    }
}

/// LoRA factors of a run.
#[derive(Default)]
struct Loras {
    merged: Factors,
    beside: Factors,
    scale: f64,
}

fn settings(dtype: DType, mode: Mode, lora: Option<(usize, f64, Targets)>) -> Settings {
    Settings { dtype, mode, lora: lora.map(|(rank, alpha, targets)| LoraSpec { rank, alpha, targets }) }
}

#[test]
fn text_encoder_matches() {
    for kind in KINDS {
        let golden = Golden::open(kind);
        let expected = golden.f32("text.hidden").1;
        for mode in MODES {
            let got = golden.text(settings(DType::F32, mode, None), &Loras::default());
            golden.compare(&format!("{mode:?} f32"), "text.hidden", &got, &expected, 1e-4);
        }
        let got = golden.text(settings(DType::F16, Mode::Inference, None), &Loras::default());
        golden.compare("f16 weights", "text.hidden", &got, &expected, 1e-2);
    }
}

#[test]
fn unet_matches() {
    for kind in KINDS {
        let golden = Golden::open(kind);
        let expected = golden.picture("unet.out").1;
        for mode in MODES {
            let got = golden.unet(settings(DType::F32, mode, None), &Loras::default());
            golden.compare(&format!("{mode:?} f32"), "unet.out", &got, &expected, 1e-4);
            let got = golden.unet(settings(DType::F16, mode, None), &Loras::default());
            golden.compare(&format!("{mode:?} f16 weights"), "unet.out", &got, &expected, 1e-2);
        }
    }
}

#[test]
fn vae_matches() {
    for kind in KINDS {
        let golden = Golden::open(kind);
        let (shape, mean) = golden.picture("vae.mean");
        let logvar = golden.picture("vae.logvar").1;
        let latent = shape[3];
        let decoded = golden.picture("vae.decoded").1;
        for (what, settings, tolerance) in [
            ("Inference f32", settings(DType::F32, Mode::Inference, None), 1e-4),
            ("Training f32", settings(DType::F32, Mode::Training, None), 1e-4),
            ("f16 weights", settings(DType::F16, Mode::Inference, None), 1e-2),
        ] {
            let moments = golden.vae(settings.clone(), "vae.image");
            let half = |from: usize| moments.chunks(2 * latent).flat_map(move |m| m[from..from + latent].to_vec());
            golden.compare(what, "vae.mean", &half(0).collect::<Vec<_>>(), &mean, tolerance);
            let got: Vec<f32> = half(latent).map(|x| x.clamp(-30.0, 20.0)).collect();
            golden.compare(what, "vae.logvar", &got, &logvar, tolerance);
            golden.compare(what, "vae.decoded", &golden.vae(settings, "vae.latent"), &decoded, tolerance);
        }
    }
}

/// Adapters that run beside the weights, in both modes, and the same merged into them.
fn lora_ways(golden: &Golden, file: &str, targets: Targets, rank: usize, scale: f64) -> Vec<(String, Settings, Loras)> {
    let factors = golden.factors(file);
    let spec = Some((rank, scale * rank as f64, targets));
    let mut ways = Vec::new();
    for mode in MODES {
        let beside = Loras { beside: factors.clone(), ..Loras::default() };
        ways.push((format!("{mode:?}, adapters"), settings(DType::F32, mode, spec.clone()), beside));
        let merged = Loras { merged: factors.clone(), scale, ..Loras::default() };
        ways.push((format!("{mode:?}, merged"), settings(DType::F32, mode, None), merged));
    }
    ways
}

#[test]
fn lora_of_the_attentions_matches() {
    for kind in KINDS {
        let golden = Golden::open(kind);
        for (name, scale) in [("lora.unet.out", 1.0), ("lora-half.unet.out", 0.5)] {
            let expected = golden.picture(name).1;
            for (what, settings, loras) in lora_ways(&golden, "", Targets::Attention, 3, scale) {
                golden.compare(&what, name, &golden.unet(settings, &loras), &expected, 1e-4);
            }
        }
    }
}

#[test]
fn lora_of_every_layer_matches() {
    for kind in KINDS {
        let golden = Golden::open(kind);
        let (unet, text) = (golden.picture("lora-all.unet.out").1, golden.f32("lora-all.text.hidden").1);
        for (what, settings, loras) in lora_ways(&golden, "-all", Targets::All, 2, 1.0) {
            golden.compare(&what, "lora-all.unet.out", &golden.unet(settings.clone(), &loras), &unet, 1e-4);
            golden.compare(&what, "lora-all.text.hidden", &golden.text(settings, &loras), &text, 1e-4);
        }
    }
}

/// The layers that `--targets` names are exactly those that PEFT adapted.
#[test]
fn targets_are_those_of_the_reference() {
    for kind in KINDS {
        let golden = Golden::open(kind);
        for (file, rank, targets) in [("", 3, Targets::Attention), ("-all", 2, Targets::All)] {
            let settings = settings(DType::F32, Mode::Training, Some((rank, rank as f64, targets)));
            let unet = Scope::new("unet", settings.clone());
            let (path, config) = golden.config(Part::Unet);
            UNet::new(&unet, UnetConfig::parse(&path, &config).unwrap()).unwrap();
            let mut params = unet.params();
            if file == "-all" {
                let text = Scope::new("text_encoder", settings);
                let (path, config) = golden.config(Part::TextEncoder);
                TextEncoder::new(&text, TextEncoderConfig::parse(&path, &config).unwrap()).unwrap();
                params.extend(text.params());
            }
            let adapters = params.into_iter().filter(|p| p.role == Role::Adapter);
            let ours: BTreeMap<String, Vec<usize>> = adapters.map(|p| (p.key, p.sources[0].shape.clone())).collect();
            let theirs = golden.factors(file).into_iter().map(|(key, t)| (key, t.shape)).collect();
            assert_eq!(ours, theirs, "{kind}{file}");
        }
    }
}

/// Both modes ask for the same checkpoint tensors, and for all of them.
#[test]
fn parameters_are_those_of_the_checkpoint() {
    for kind in KINDS {
        let golden = Golden::open(kind);
        for part in Part::ALL {
            for mode in MODES {
                let scope = Scope::new(part.name(), settings(DType::F32, mode, None));
                let (path, config) = golden.config(part);
                match part {
                    Part::Unet => drop(UNet::new(&scope, UnetConfig::parse(&path, &config).unwrap()).unwrap()),
                    Part::Vae => drop(Vae::new(&scope, VaeConfig::parse(&path, &config).unwrap()).unwrap()),
                    Part::TextEncoder => {
                        drop(TextEncoder::new(&scope, TextEncoderConfig::parse(&path, &config).unwrap()).unwrap())
                    }
                }
                let params = scope.params();
                let ours: BTreeMap<String, Vec<usize>> =
                    params.iter().flat_map(|p| &p.sources).map(|s| (s.key.clone(), s.shape.clone())).collect();
                let theirs: BTreeMap<String, Vec<usize>> = golden
                    .model
                    .part(part)
                    .iter()
                    .map(|t| (format!("{}.{}", part.name(), t.name), t.shape.to_vec()))
                    .collect();
                assert_eq!(ours, theirs, "{kind} {part} {mode:?}");
                let modules: BTreeMap<String, Vec<usize>> = scope.modules().into_iter().collect();
                let expected = golden.model.part(part).modules();
                let expected: BTreeMap<String, Vec<usize>> =
                    expected.into_iter().map(|(path, shape)| (format!("{}.{path}", part.name()), shape)).collect();
                assert_eq!(modules, expected, "{kind} {part} {mode:?}");
            }
        }
    }
}
