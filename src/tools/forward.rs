//! One part of a model on given tensors, in PyTorch's layouts, to compare with another implementation.

use crate::base::{DType, layout};
use crate::engine::{Call, Engine};
use crate::error::{Error, Result, message, option};
use crate::gpu::{Pool, Store};
use crate::graph::{Graph, Replayed, Session, Tensor};
use crate::io::SafeTensors;
use crate::models::{Added, Conditioning, Context};
use crate::pipeline::autoencode::VaeSession;
use crate::pipeline::encode::{Destination, EncoderSession};
use crate::pipeline::hidden::HostHidden;
use crate::pipeline::reads::Reads;
use crate::pipeline::text::{PROMPTS, TextSpec, Tokens};
use crate::pipeline::{LoraArg, Model, ModelOptions};

/// Part of a model, with the tensors it reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardPart {
    /// `input_ids`, and `input_ids_2` for a second text encoder -> `hidden`, and `pooled` where the UNet reads it
    Text,
    /// `sample timestep context` -> `out`
    Unet,
    /// `image` -> `mean logvar`
    VaeEncode,
    /// `latent` (not scaled) -> `image`
    VaeDecode,
}

/// Named tensor: name, shape, values.
pub type Named = (String, Vec<usize>, Vec<f32>);

/// An image-like operand as NHWC, with its extents `[n, c, h, w]`.
fn picture(inputs: &SafeTensors, name: &str, channels: usize) -> Result<([usize; 4], Vec<f32>)> {
    let tensor = inputs.get(name)?;
    let &[n, c, h, w] = tensor.shape.as_ref() else {
        return Err(tensor.error(format!("is {:?}: expected [n, {channels}, h, w]", tensor.shape)));
    };
    if c != channels || n == 0 {
        return Err(tensor.error(format!("is {:?}: expected [n, {channels}, h, w]", tensor.shape)));
    }
    Ok(([n, c, h, w], layout::to_channels_last(&tensor.to_numbers()?, [n, c, h, w])))
}

/// Largest difference from an op's f64 reference that [`check_forward`] takes for rounding, as a fraction of the reference's
/// largest magnitude.
pub const CHECK_BOUND: f64 = 1e-4;

/// Given tensors, and the model to run on them.
#[derive(Clone, Copy, Debug)]
pub struct ForwardInputs<'a> {
    /// Model.
    pub model: &'a ModelOptions,
    /// LoRAs to apply.
    pub loras: &'a [LoraArg],
    /// Tensors by name.
    pub tensors: Option<&'a SafeTensors>,
    /// Prompts, in place of `input_ids`.
    pub prompts: &'a [String],
}

/// How a part runs.
enum Way {
    Whole,
    /// Node by node, beside the references.
    Checked(Box<Replayed>),
}

impl Way {
    async fn run(&mut self, session: &Session) -> Result<()> {
        let Way::Checked(replayed) = self else { return session.run().await };
        **replayed = session.check(CHECK_BOUND).await?;
        match &replayed.wrong {
            Some(wrong) => Err(Error::Device(format!(
                "{wrong} of the largest value, {CHECK_BOUND:.0e} allowed: the kernel or the driver computes wrongly"
            ))),
            None => Ok(()),
        }
    }
}

/// Runs `part` of a model on given tensors, or the text encoder on prompts, and returns the outputs.
///
/// # Errors
/// If the model cannot be opened, or an input is missing or has the wrong shape, by name.
pub fn forward<'a>(engine: &'a Engine, part: ForwardPart, inputs: ForwardInputs<'a>) -> Call<'a, Vec<Named>> {
    Box::pin(async move { run(engine, part, inputs, &mut Way::Whole).await })
}

/// Runs `part` as [`forward`] does, but node by node, and compares each node's results with its op's reference on the CPU,
/// which takes far longer than the device. Returns the outputs and what was compared.
///
/// # Errors
/// Those of [`forward`]; [`Error::Device`] that names the first node that is off by more than [`CHECK_BOUND`], with its
/// op, its shapes and the parameter that it reads.
pub fn check_forward<'a>(
    engine: &'a Engine,
    part: ForwardPart,
    inputs: ForwardInputs<'a>,
) -> Call<'a, (Vec<Named>, Replayed)> {
    Box::pin(async move {
        let mut way = Way::Checked(Box::default());
        let made = run(engine, part, inputs, &mut way).await?;
        Ok((made, if let Way::Checked(replayed) = way { *replayed } else { Replayed::default() }))
    })
}

async fn run(engine: &Engine, part: ForwardPart, given: ForwardInputs<'_>, way: &mut Way) -> Result<Vec<Named>> {
    let ForwardInputs { model, loras, tensors: inputs, prompts } = given;
    let mut silent = |_| crate::event::Flow::Continue;
    let model = Model::open(model, loras, &mut silent)?;
    model.check_reads(match part {
        ForwardPart::Text => Reads { text: true, ..Reads::NOTHING },
        ForwardPart::Unet => Reads { unet: true, ..Reads::NOTHING },
        ForwardPart::VaeEncode => Reads { encoder: true, ..Reads::NOTHING },
        ForwardPart::VaeDecode => Reads { decoder: true, ..Reads::NOTHING },
    })?;
    let given = || {
        inputs.ok_or_else(|| {
            Error::usage("input", message!["this part needs tensors: give ", option("input"), " X.safetensors"])
        })
    };
    match part {
        ForwardPart::Text => forward_text(engine, &model, inputs, prompts, way).await,
        ForwardPart::Unet => forward_unet(engine, &model, given()?, way).await,
        ForwardPart::VaeEncode => forward_encode(engine, &model, given()?, way).await,
        ForwardPart::VaeDecode => forward_decode(engine, &model, given()?, way).await,
    }
}

async fn forward_text(
    engine: &Engine,
    model: &Model,
    inputs: Option<&SafeTensors>,
    prompts: &[String],
    way: &mut Way,
) -> Result<Vec<Named>> {
    let mut silent = |_| crate::event::Flow::Continue;
    let mut rows = prompts.iter().map(|prompt| model.tokens(prompt, &mut silent)).collect::<Result<Vec<Tokens>>>()?;
    if let Some(inputs) = inputs.filter(|_| prompts.is_empty()) {
        rows = token_rows(model, inputs)?;
    }
    let Some(tokens) = rows.first().and_then(|row| row.first()).map(Vec::len) else {
        let problem = message!["text needs ", option("prompt"), " or a file with input_ids"];
        return Err(Error::usage("prompt", problem));
    };
    let (gpu, settings) = (&engine.gpu, model.settings(engine.gpu.caps(), &model.ranks()));
    let parts = model.plan_texts(&settings, engine.planning(), TextSpec::plain(rows.len(), tokens)).await?;
    if let Way::Checked(_) = way {
        // As many prompts as are encoded at once: further ones run the same kernels.
        for first in parts.encoders.iter().filter_map(|of| of.parts.first()) {
            let weights = Store::beside(gpu, model.weights(gpu, first.part.name, &first.part.params).await?);
            let encoder = EncoderSession::new(gpu, first, &mut Pool::default(), &weights).await?;
            encoder.write(model, &rows[..rows.len().min(PROMPTS)])?;
            way.run(&encoder.session).await?;
        }
    }
    let mut hidden = HostHidden::new(model.hidden_shape(tokens), rows.len());
    model.encode_prompts(gpu, &parts, &mut Pool::default(), &rows, Destination::Host(&mut hidden)).await?;
    let states = vec![rows.len(), tokens, model.context_width()];
    let mut outputs = vec![("hidden".into(), states, hidden.hidden)];
    if let Some(width) = model.pooled_width() {
        outputs.push(("pooled".into(), vec![rows.len(), width], hidden.pooled));
    }
    Ok(outputs)
}

/// Token ids of prompts: `input_ids`, and `input_ids_2` for a second text encoder.
fn token_rows(model: &Model, inputs: &SafeTensors) -> Result<Vec<Tokens>> {
    let mut rows: Vec<Tokens> = Vec::new();
    for (encoder, text) in model.texts.iter().enumerate() {
        let tensor = inputs.get(if encoder == 0 { "input_ids" } else { "input_ids_2" })?;
        let &[n, tokens] = tensor.shape.as_ref() else {
            return Err(tensor.error(format!("is {:?}: expected [n, tokens]", tensor.shape)));
        };
        let most = text.config.max_position_embeddings;
        if n == 0 || tokens == 0 || tokens > most {
            return Err(tensor.error(format!("is {:?}: expected 1 to {most} tokens", tensor.shape)));
        }
        if encoder > 0 && (n, Some(tokens)) != (rows.len(), rows.first().map(|row| row[0].len())) {
            return Err(tensor.error(format!("is {:?}: expected the shape of input_ids", tensor.shape)));
        }
        let vocabulary = text.config.vocab_size as i64;
        let ids = tensor.to_i64()?;
        if let Some(id) = ids.iter().find(|id| !(0..vocabulary).contains(*id)) {
            return Err(tensor.error(format!("holds {id}: ids are 0 to {}", vocabulary - 1)));
        }
        rows.resize(n, Tokens::new());
        for (row, ids) in rows.iter_mut().zip(ids.chunks_exact(tokens)) {
            row.push(ids.iter().map(|id| *id as u32).collect());
        }
    }
    Ok(rows)
}

async fn forward_unet(engine: &Engine, model: &Model, inputs: &SafeTensors, way: &mut Way) -> Result<Vec<Named>> {
    let ([n, c, h, w], sample) = picture(inputs, "sample", model.unet.in_channels)?;
    let mut timestep = inputs.get("timestep")?.to_numbers()?;
    if timestep.len() == 1 {
        timestep = vec![timestep[0]; n];
    }
    let context = inputs.get("context")?;
    let width = model.context_width();
    let &[rows, tokens, columns] = context.shape.as_ref() else {
        return Err(context.error(format!("is {:?}: expected [n, tokens, {width}]", context.shape)));
    };
    if rows != n || columns != width || timestep.len() != n || tokens == 0 {
        let message = format!(
            "is {:?} with {} timesteps: expected [{n}, tokens, {width}] and {n}",
            context.shape,
            timestep.len()
        );
        return Err(context.error(message));
    }
    let added = added_rows(model, inputs, n)?;
    let (denoiser, params) = model.denoiser(model.settings(engine.gpu.caps(), &model.ranks()))?;
    let mut g = Graph::new();
    let x = g.input("sample", [n, h, w, c], DType::F32);
    let t = g.input("timestep", [n], DType::F32);
    let seen = g.input("context", [n, tokens, width], DType::F32);
    let pairs = denoiser.context(&mut g, seen)?;
    let to = added.as_ref().map(|[pooled, _]| Added {
        pooled: g.input("pooled", [n, pooled.len() / n], DType::F32),
        time_ids: g.input("time ids", [n, 6], DType::F32),
    });
    let out = denoiser.predict(&mut g, x.into(), t, Conditioning { context: Context::KeyValues(&pairs), added: to })?;
    g.output(out);
    let store = Store::beside(&engine.gpu, model.weights(&engine.gpu, "UNet", &params).await?);
    let session = Session::new(&engine.gpu, engine.planning().plan(&g)?, &mut Pool::default(), &store).await?;
    let writes: [(Tensor, &[f32]); 3] = [(x, &sample), (t, &timestep), (seen, &context.to_numbers()?)];
    for (input, values) in writes {
        session.write(input, values)?;
    }
    if let (Some(Added { pooled, time_ids }), Some([rows, sizes])) = (to, &added) {
        session.write(pooled, rows)?;
        session.write(time_ids, sizes)?;
    }
    way.run(&session).await?;
    let c = model.unet.out_channels;
    let values = layout::to_channels_first(&session.read(out).await?, [n, c, h, w]);
    Ok(vec![("out".into(), vec![n, c, h, w], values)])
}

/// Pooled embeddings and sizes of `n` samples, for a model that reads them: `pooled` [n, P] and `time_ids` [n, 6].
fn added_rows(model: &Model, inputs: &SafeTensors, n: usize) -> Result<Option<[Vec<f32>; 2]>> {
    let Some(width) = model.pooled_width() else { return Ok(None) };
    let rows = |name: &str, columns: usize| {
        let tensor = inputs.get(name)?;
        if *tensor.shape != [n, columns] {
            return Err(tensor.error(format!("is {:?}: expected [{n}, {columns}]", tensor.shape)));
        }
        tensor.to_numbers()
    };
    Ok(Some([rows("pooled", width)?, rows("time_ids", 6)?]))
}

/// Runs a half of the autoencoder on `values`.
async fn run_vae(vae: &VaeSession, values: &[f32], way: &mut Way) -> Result<Vec<f32>> {
    vae.session.write(vae.input, values)?;
    way.run(&vae.session).await?;
    vae.read().await
}

async fn forward_encode(engine: &Engine, model: &Model, inputs: &SafeTensors, way: &mut Way) -> Result<Vec<Named>> {
    let ([n, _, h, w], image) = picture(inputs, "image", model.vae.in_channels)?;
    let part = model.plan_vae_encode(engine.planning(), n, [w, h])?;
    let shape = part.plan.shape(part.output).clone();
    let vae = VaeSession::new(&engine.gpu, model, &mut Pool::default(), &part).await?;
    let moments = run_vae(&vae, &image, way).await?;
    let (c, h, w) = (model.vae.latent_channels, shape[1], shape[2]);
    let both = layout::to_channels_first(&moments, [n, 2 * c, h, w]);
    let half = |which: usize| both.chunks(c * h * w).skip(which).step_by(2).flatten().copied().collect::<Vec<f32>>();
    let logvar = half(1).into_iter().map(|x| x.clamp(-30.0, 20.0)).collect();
    Ok(vec![("mean".into(), vec![n, c, h, w], half(0)), ("logvar".into(), vec![n, c, h, w], logvar)])
}

async fn forward_decode(engine: &Engine, model: &Model, inputs: &SafeTensors, way: &mut Way) -> Result<Vec<Named>> {
    let ([n, _, h, w], latent) = picture(inputs, "latent", model.vae.latent_channels)?;
    let factor = model.factor();
    let part = model.plan_vae_decode(engine.planning(), n, [w * factor, h * factor], false)?;
    let vae = VaeSession::new(&engine.gpu, model, &mut Pool::default(), &part).await?;
    let (c, h, w) = (model.vae.out_channels, h * factor, w * factor);
    let values = layout::to_channels_first(&run_vae(&vae, &latent, way).await?, [n, c, h, w]);
    Ok(vec![("image".into(), vec![n, c, h, w], values)])
}
