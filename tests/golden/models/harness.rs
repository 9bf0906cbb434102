//! Runs a part of a golden model on a device, or in the f64 references.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use portray::low_level::base::{Array, DType, layout};
use portray::low_level::gpu::{Gpu, Pool, Store, Variants};
use portray::low_level::graph::{Graph, Plan, PlanOptions, Session, Tensor, eval};
use portray::low_level::io::SafeTensors;
use portray::low_level::io::checkpoints::{Checkpoint, PartId};
use portray::low_level::models::{Context, MapSizes, TextEncoder, TextEncoderConfig, UNet, UnetConfig, Vae, VaeConfig};
use portray::low_level::nn::loading;
use portray::low_level::nn::weights::{self, HostTensor};
use portray::low_level::nn::{LoraSpec, Mode, Param, Role, Scope, Settings, Targets, lora};

use portray::low_level::ops::oracle::close;

pub const KINDS: [&str; 2] = ["sd2", "sd15"];
pub const MODES: [Mode; 2] = [Mode::Inference, Mode::Training];

/// One golden model with its recorded values.
pub struct Golden {
    pub kind: &'static str,
    pub model: Checkpoint,
    pub values: SafeTensors,
}

/// Changes a checkpoint tensor before it is packed: key, shape, values.
pub type Patch<'a> = &'a (dyn Fn(&str, &[usize], &mut [f32]) -> portray::Result<()> + Sync);

/// A LoRA file's factors, as `lora.<path>.down` and `.up`.
pub type Factors = BTreeMap<String, HostTensor<'static>>;

pub fn fixture(name: &str) -> String {
    crate::common::golden(name).display().to_string()
}

impl Golden {
    pub fn open(kind: &'static str) -> Golden {
        Golden {
            kind,
            model: Checkpoint::open(fixture(kind)).unwrap(),
            values: SafeTensors::open(fixture(&format!("{kind}.safetensors"))).unwrap(),
        }
    }

    pub fn f32(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let tensor = self.values.get(name).unwrap();
        (tensor.shape.to_vec(), tensor.to_f32().unwrap())
    }

    /// A recorded image, channels last.
    pub fn picture(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let (shape, values) = self.f32(name);
        let [n, c, h, w] = shape[..] else { panic!("{name} is {shape:?}") };
        (vec![n, h, w, c], layout::to_channels_last(&values, [n, c, h, w]))
    }

    pub fn config(&self, part: PartId) -> (String, String) {
        let weights = self.model.part(part).unwrap();
        (format!("{}/config.json", part.name()), weights.config().to_string())
    }

    /// A LoRA file in PEFT's layout.
    pub fn factors(&self, file: &str) -> Factors {
        let file = SafeTensors::open(fixture(&format!("{}{file}.lora-peft.safetensors", self.kind))).unwrap();
        file.iter()
            .map(|t| {
                let key = t.name.replace(".lora_A.weight", ".down").replace(".lora_B.weight", ".up");
                (format!("lora.{key}"), HostTensor { shape: t.shape.to_vec(), values: t.to_f32().unwrap().into() })
            })
            .collect()
    }

    pub fn source(&self, key: &str, shape: &[usize]) -> portray::Result<HostTensor<'static>> {
        let (part, name) = key.split_once('.').unwrap();
        let part = PartId::from_name(part).unwrap();
        let tensor = self.model.part(part)?.get_shaped(name, shape)?;
        Ok(HostTensor { shape: tensor.shape.to_vec(), values: Cow::Owned(tensor.to_f32()?) })
    }

    /// Runs `g`, whose parameters are `params`, and reads `output`. `merged` factors are added to the weights, `beside`
    /// fills the adapters.
    pub fn run(
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
                (Some(down), Some(up)) => {
                    lora::merge(values, shape, 0..shape[0], [&down.values, &up.values], loras.scale)
                }
                _ => Ok(()),
            }
        };
        if std::env::var("PORTRAY_BACKEND").is_ok_and(|b| b == "reference") {
            let mut given = self.stored_values(&g, params, loras, &patch);
            given.extend(inputs.into_iter().map(|(t, values)| (t, Array::from_f32(g.shape(t).clone(), &values))));
            return eval(&g, given).unwrap()[&output].to_f32();
        }
        pollster::block_on(async {
            let gpu = crate::common::engine().gpu();
            let mut store = Store::new(gpu);
            self.load(&mut store, params, loras, &patch)?;
            run_plan(gpu, &g, &store, &inputs).await?.read(output).await
        })
        .unwrap()
    }

    /// Puts weights and adapters into `store`.
    pub fn load(&self, store: &mut Store, params: &[Param], loras: &Loras, patch: Patch<'_>) -> portray::Result<()> {
        let rows = |key: &str, shape: &[usize], rows: std::ops::Range<usize>| {
            let mut tensor = self.source(key, shape)?;
            patch(key, shape, tensor.values.to_mut())?;
            let columns: usize = shape.iter().skip(1).product();
            Ok(tensor.values[rows.start * columns..rows.end * columns].to_vec())
        };
        pollster::block_on(loading::load(store, self.kind, params, &rows))?;
        let adapters: Vec<Param> = params.iter().filter(|p| p.role == Role::Adapter).cloned().collect();
        loading::allocate(store, "lora", &adapters)?;
        for p in &adapters {
            store.write(&p.key, &weights::pack(p, &[loras.beside[&p.key].clone()])?)?;
        }
        Ok(())
    }

    /// What the store would hold, as the reference sees it.
    pub fn stored_values(
        &self,
        g: &Graph,
        params: &[Param],
        loras: &Loras,
        patch: Patch<'_>,
    ) -> HashMap<Tensor, Array> {
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
                DType::Q8 => portray::low_level::base::block8::dequantize(&bytes),
                DType::Q4 => portray::low_level::base::block4::dequantize(&bytes),
                _ => bytemuck::pod_collect_to_vec(&bytes),
            };
            given.insert(t, Array::from_f32(param.shape.clone(), &values));
        }
        given
    }

    pub fn text(&self, settings: Settings, loras: &Loras) -> Vec<f32> {
        let (path, config) = self.config(PartId::TEXT_ENCODER);
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

    pub fn unet_model(&self, settings: Settings) -> (Scope, UNet) {
        let (path, config) = self.config(PartId::UNET);
        let scope = Scope::new("unet", settings);
        let model = UNet::new(&scope, UnetConfig::parse(&path, &config).unwrap()).unwrap();
        (scope, model)
    }

    pub fn unet(&self, settings: Settings, loras: &Loras) -> Vec<f32> {
        let (scope, model) = self.unet_model(settings.clone());
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

    pub fn vae(&self, settings: Settings, input: &str, maps: MapSizes) -> Vec<f32> {
        let (path, config) = self.config(PartId::VAE);
        let config = VaeConfig::parse(&path, &config).unwrap();
        let scope = Scope::new("vae", settings);
        let mut g = Graph::new();
        let (shape, values) = self.picture(input);
        let x = g.input(input, shape, DType::F32);
        let out = if input == "vae.image" {
            Vae::encoder(&scope, config).unwrap().with_maps(maps).encode(&mut g, x).unwrap()
        } else {
            Vae::decoder(&scope, config).unwrap().with_maps(maps).decode(&mut g, x).unwrap()
        };
        g.output(out);
        self.run(g, &scope.params(), vec![(x, values)], out, &Loras::default())
    }

    /// Compares with a recorded tensor; prints how far off the values are.
    pub fn compare(&self, what: &str, name: &str, got: &[f32], expected: &[f32], tolerance: f64) {
        let expected: Vec<f64> = expected.iter().map(|&x| f64::from(x)).collect();
        let largest = expected.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        let worst = got.iter().zip(&expected).map(|(&g, e)| (f64::from(g) - e).abs()).fold(0.0, f64::max);
        println!("{} {name} {what}: off by {:.1e} of the largest", self.kind, worst / largest);
        if let Err(e) = close(got, &expected, tolerance) {
            panic!("{} {name} {what}: {e}", self.kind);
        }
    }
}

/// Plans `g` and runs it once with `inputs`.
pub async fn run_plan(gpu: &Gpu, g: &Graph, store: &Store, inputs: &[(Tensor, Vec<f32>)]) -> portray::Result<Session> {
    let plan = Plan::new(g, gpu.caps(), &Variants::default(), &PlanOptions::default())?;
    println!("{} dispatches", plan.dispatch_count());
    let session = Session::new(gpu, plan, &mut Pool::default(), store).await?;
    for (t, values) in inputs {
        match g.info(*t).dtype {
            DType::U32 => session.write_ids(*t, &values.iter().map(|&x| x as u32).collect::<Vec<_>>())?,
            _ => session.write(*t, values)?,
        }
    }
    session.run().await?;
    Ok(session)
}

/// LoRA factors of a run.
#[derive(Default)]
pub struct Loras {
    pub merged: Factors,
    pub beside: Factors,
    pub scale: f64,
}

pub fn settings(dtype: DType, mode: Mode, lora: Option<(usize, f64, Targets)>) -> Settings {
    Settings {
        dtype,
        mode,
        lora: lora.map(|(rank, alpha, targets)| LoraSpec { rank, alpha, targets }),
        ..Settings::default()
    }
}
