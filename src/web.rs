//! The library's face in a browser: jobs as JSON in, events as JSON and pixels out. `web/engine.js` is its one caller.

mod cancel;
mod labels;
mod page_files;

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use js_sys::{Function, Uint8Array};
use serde_json::{Value, json};
use wasm_bindgen::prelude::*;

use crate::engine::{Engine, EngineOptions};
use crate::error::{Error, Result};
use crate::event::{Event, Flow, Listener, Picture};
use crate::generate::plans::{plan_with, plan_without_mask};
use crate::generate::{GenerateOptions, plan_generate};
use crate::io;
use crate::io::image::encode_png;
use crate::io::{LoraFile, LoraFormat};
use crate::low_level::tools::{self, Stopwatch};
use crate::pipeline::opening::told_of;
use crate::pipeline::{LoraReport, Model, ModelOptions, PlanReport, VisionKind, VisionModel};
use crate::train::{TrainOptions, plan_train};
use cancel::WebCancelToken;
use labels::Labels;

fn parse<T: serde::de::DeserializeOwned>(json: &str) -> Result<T> {
    // By way of a value, whose errors name no place in a text that nobody sees.
    let value: Result<T, _> = serde_json::from_str::<Value>(json).and_then(serde_json::from_value);
    value.map_err(|e| Error::argument(e.to_string()))
}

/// Hands events to `listener(json, pixels, png)`.
fn told(listener: &Function, words: &Labels, event: Event) -> Flow {
    let picture = |p: &Picture| {
        let text = [("parameters", p.parameters.as_str())];
        let made = io::Picture { width: p.width, height: p.height, rgb: p.rgb.clone() };
        let png = encode_png(&made, &text).ok().map(|png| Uint8Array::from(png.as_slice()));
        (Some(opaque(&p.rgb)), png)
    };
    let (pixels, png) = match &event {
        Event::Preview { rgb, .. } => (Some(opaque(rgb)), None),
        Event::Picture(made) | Event::Sample { picture: made, .. } => picture(made),
        _ => (None, None),
    };
    let said = event.to_json(words).to_string();
    let [pixels, png] = [pixels, png].map(|bytes| bytes.map_or(JsValue::NULL, JsValue::from));
    match listener.call3(&JsValue::NULL, &said.into(), &pixels, &png) {
        Ok(_) => Flow::Continue,
        // A listener that throws hears no more.
        Err(_) => Flow::Stop,
    }
}

/// RGB as the RGBA that `ImageData` takes.
fn opaque(rgb: &[u8]) -> Uint8Array {
    let rgba: Vec<u8> = rgb.chunks_exact(3).flat_map(|p| [p[0], p[1], p[2], 255]).collect();
    Uint8Array::from(rgba.as_slice())
}

/// The engine on a device of its own.
#[wasm_bindgen(js_name = Engine)]
pub struct WebEngine {
    engine: Engine,
    /// The model that was asked for last: opening one parses its tokenizer, and loads the UNet where only a prediction tells
    /// what it predicts.
    opened: RefCell<Option<Open>>,
    words: Rc<Labels>,
}

/// An open model.
struct Open {
    /// The options that name it, as JSON.
    name: String,
    /// The model without LoRAs.
    model: Rc<Model>,
    /// Whether what it predicts is known; else a job finds that out.
    known: bool,
    /// What was said of it when it was opened, for the first job.
    said: Vec<Event>,
    /// The options that name the last LoRAs, as JSON, and the model with them.
    with: Option<(String, Rc<Model>)>,
}

impl Open {
    /// Opens the model of `options` for a look at it: nothing is computed.
    fn look(options: &ModelOptions) -> Result<Open> {
        let mut said = Vec::new();
        let model = Model::open(options, &[], &mut |event| {
            said.push(event);
            Flow::Continue
        })?;
        let known = model.checkpoint.prediction_known() || options.prediction.is_some();
        Ok(Open { name: json!(options).to_string(), model: Rc::new(model), known, said, with: None })
    }

    /// The model with the LoRAs of `job`: those of the last job, else read now. A LoRA that both have stays as it is.
    fn read_loras(&self, job: &GenerateOptions, listener: Listener<'_>) -> Result<Rc<Model>> {
        let name = loras_named(job);
        let last = self.with.as_ref();
        if let Some((_, model)) = last.filter(|(last, _)| *last == name) {
            return Ok(model.clone());
        }
        let model = last.map_or(&self.model, |(_, model)| model);
        Ok(Rc::new(model.with_loras(&job.loras, listener)?.merging(job.merge)))
    }
}

fn loras_named(job: &GenerateOptions) -> String {
    json!([job.loras, job.merge]).to_string()
}

fn describe_vision(path: &str) -> Result<Value> {
    let model = VisionModel::open(Path::new(path))?;
    let clip = model.kind() == VisionKind::Clip;
    if clip {
        // What a training would find out after its class images: no text side, or no tokenizer.
        model.tokenize(&[String::new()])?;
    }
    let option = if clip { "clip" } else { "vision" };
    let bytes: u64 = model.weight_bytes()?.iter().sum();
    Ok(json!({"option": option, "class": model.class(), "bytes": bytes}))
}

#[wasm_bindgen(js_class = Engine)]
impl WebEngine {
    /// Opens the browser's adapter; `labels`, as JSON, has what the page calls options, by their fields' names.
    pub async fn request(labels: Option<String>) -> Result<WebEngine, JsValue> {
        // Of a panic JavaScript sees a trap without words: they stay where it finds them.
        std::panic::set_hook(Box::new(|panic| {
            let _ = js_sys::Reflect::set(&js_sys::global(), &"portrayPanic".into(), &panic.to_string().into());
        }));
        let labels = labels.and_then(|labels| serde_json::from_str(&labels).ok());
        let words = Rc::new(Labels(labels.unwrap_or_default()));
        let engine = Engine::request(&EngineOptions::default()).await.map_err(|e| words.thrown(&e))?;
        Ok(WebEngine { engine, opened: RefCell::default(), words })
    }

    /// Adapter and limits, as JSON.
    pub fn info(&self) -> String {
        let (info, caps) = (self.engine.gpu().info(), self.engine.gpu().caps());
        let software = caps.class == crate::gpu::AdapterClass::Cpu;
        json!({"adapter": info.name, "software": software, "max_binding_bytes": caps.max_binding_bytes,
            "max_buffer_bytes": caps.max_buffer_bytes})
        .to_string()
    }

    /// The `GPUDevice`.
    pub fn device(&self) -> JsValue {
        self.engine.gpu().web_device()
    }

    /// Whether `bytes` can be had of the adapter now.
    #[wasm_bindgen(js_name = canAllocate)]
    pub async fn can_allocate(&self, bytes: f64) -> bool {
        self.engine.gpu().can_allocate(bytes as u64).await
    }

    /// Description of the model of `options`: a `ModelReport` as JSON.
    pub fn model(&self, options: &str) -> Result<String, JsValue> {
        self.describe(options).map(|v| v.to_string()).map_err(|e| self.words.thrown(&e))
    }

    fn describe(&self, options: &str) -> Result<Value> {
        let options: ModelOptions = parse(options)?;
        let model = self.looked_at(&options)?;
        Ok(model.report(&options)?.to_json(&*self.words))
    }

    /// Description of the LoRA at `path` beside the model of `options`: a `LoraReport` as JSON.
    pub fn lora(&self, options: &str, path: &str) -> Result<String, JsValue> {
        self.describe_lora(options, path).map(|v| v.to_string()).map_err(|e| self.words.thrown(&e))
    }

    fn describe_lora(&self, options: &str, path: &str) -> Result<Value> {
        let options: ModelOptions = parse(options)?;
        let model = self.looked_at(&options)?;
        let modules = model.checkpoint.modules();
        let file = LoraFile::open(path, Some(&modules))?;
        file.match_report(&modules).check()?;
        serde_json::to_value(LoraReport::new(&file, Some(&modules))).map_err(|e| Error::Internal(e.to_string()))
    }

    /// Description of the vision model in the folder `path`, as JSON: the `option` of a training that takes it ("vision" or
    /// "clip"), its `class`, and the `bytes` of its weights on the device.
    pub fn vision(&self, path: &str) -> Result<String, JsValue> {
        describe_vision(path).map(|v| v.to_string()).map_err(|e| self.words.thrown(&e))
    }

    /// Memory and work of the job `kind` ("generate", "train", or "model" for images that need no mask yet): a `PlanReport` as
    /// JSON.
    pub fn plan(&self, kind: &str, job: &str) -> Result<String, JsValue> {
        let caps = self.engine.gpu().caps();
        let report = match kind {
            "train" => parse(job).and_then(|job: TrainOptions| plan_train(&job, caps)),
            kind => parse(job).and_then(|job: GenerateOptions| self.plan_images(&job, kind != "model")),
        };
        report.map(|report| report.to_json(&*self.words).to_string()).map_err(|e| self.words.thrown(&e))
    }

    /// Runs test case `index` of the op `op`: null where there is none, "" where it is right, else what is wrong.
    #[wasm_bindgen(js_name = checkKernel)]
    pub async fn check_kernel(&self, op: &str, index: usize, hardware: bool) -> Result<Option<String>, JsValue> {
        let found = tools::check_kernel(&self.engine, op, index, hardware).await.map_err(|e| self.words.thrown(&e))?;
        Ok(found.map(|right| right.err().unwrap_or_default()))
    }

    /// A "unet" or "train" step of the model of `options`, to be timed.
    pub async fn stopwatch(&self, step: &str, options: &str) -> Result<WebStopwatch, JsValue> {
        let options: ModelOptions = parse(options).map_err(|e| self.words.thrown(&e))?;
        tools::stopwatch(&self.engine, step, &options)
            .await
            .map(|timed| WebStopwatch(timed, self.words.clone()))
            .map_err(|e| self.words.thrown(&e))
    }

    /// Makes images, until `cancel` asks for an end; the weights stay on the device for the next ones where they are to be
    /// kept.
    pub async fn generate(
        &self,
        job: &str,
        keep: bool,
        cancel: &WebCancelToken,
        listener: Function,
    ) -> Result<(), JsValue> {
        let job: GenerateOptions = parse(job).map_err(|e| self.words.thrown(&e))?;
        let engine = self.engine.clone().with_cancel(cancel.token());
        let mut listener = |event| told(&listener, &self.words, event);
        let model = self.opened(&engine, &job, &mut listener).await.map_err(|e| self.words.thrown(&e))?;
        model.keep_weights(keep);
        engine.generate_with(&model, &job, &mut listener).await.map(drop).map_err(|e| self.words.thrown(&e))
    }

    /// Lets go of what the last images' model has on the device. The model stays open.
    pub fn release(&self) {
        if let Some(open) = self.opened.borrow().as_ref() {
            open.model.keep_weights(false);
        }
    }

    /// The job's model with its LoRAs. A model stays open for all that is asked of it, until another is named; its LoRAs are
    /// read anew where others are named.
    async fn opened(&self, engine: &Engine, job: &GenerateOptions, listener: Listener<'_>) -> Result<Rc<Model>> {
        let name = json!(job.model).to_string();
        let last = self.opened.take().filter(|open| open.name == name && open.known);
        let mut open = match last {
            Some(open) => open,
            None => {
                let model = Rc::new(engine.open(&job.model, &[], &mut *listener).await?);
                Open { name, model, known: true, said: Vec::new(), with: None }
            }
        };
        for event in open.said.drain(..) {
            listener(event);
        }
        let model = open.read_loras(job, listener);
        open.with = model.as_ref().ok().map(|model| (loras_named(job), model.clone())).or(open.with);
        self.opened.replace(Some(open));
        model
    }

    /// The plan of images with the model that is open, which then runs as it was planned; with another one, opened for it.
    fn plan_images(&self, job: &GenerateOptions, masked: bool) -> Result<PlanReport> {
        let (caps, name) = (self.engine.gpu().caps(), json!(job.model).to_string());
        match self.opened.borrow().as_ref().filter(|open| open.name == name) {
            Some(open) => {
                let mut notes = Vec::new();
                let model = open.read_loras(job, &mut |event| told_of(&mut notes, event))?;
                plan_with(&model, job, caps, masked, notes)
            }
            None if masked => plan_generate(job, caps),
            None => plan_without_mask(job, caps),
        }
    }

    /// The model of `options`: the one that is open, or opened now in its place.
    fn looked_at(&self, options: &ModelOptions) -> Result<Rc<Model>> {
        let name = json!(options).to_string();
        let last = self.opened.take().filter(|open| open.name == name);
        let open = last.map_or_else(|| Open::look(options), Ok)?;
        let model = open.model.clone();
        self.opened.replace(Some(open));
        Ok(model)
    }

    /// Trains, until `cancel` asks for an end; gives the updates done. The result lies at the job's `out`.
    pub async fn train(&self, job: &str, cancel: &WebCancelToken, listener: Function) -> Result<usize, JsValue> {
        let job: TrainOptions = parse(job).map_err(|e| self.words.thrown(&e))?;
        // It opens the model for itself.
        self.opened.take();
        let engine = self.engine.clone().with_cancel(cancel.token());
        let trained = engine
            .train(&job, &mut |event| told(&listener, &self.words, event))
            .await
            .map_err(|e| self.words.thrown(&e))?;
        Ok(trained.steps)
    }
}

/// A step that can be timed.
#[wasm_bindgen(js_name = Stopwatch)]
pub struct WebStopwatch(Stopwatch, Rc<Labels>);

#[wasm_bindgen(js_class = Stopwatch)]
impl WebStopwatch {
    /// Seconds of one run.
    pub async fn run(&self) -> Result<f64, JsValue> {
        self.0.run().await.map_err(|e| self.1.thrown(&e))
    }
}

/// Every op that has test cases.
#[wasm_bindgen]
pub fn ops() -> Vec<String> {
    crate::ops::cases().into_iter().map(|(op, _)| op.to_owned()).collect()
}

/// Writes the LoRA at `from` in the layout `format` to `to`.
#[wasm_bindgen]
pub fn convert(from: &str, format: &str, to: &str) -> Result<(), JsValue> {
    let format = serde_json::from_value::<LoraFormat>(json!(format)).map_err(|e| Error::argument(e.to_string()));
    let lora = LoraFile::open(from, None);
    format.and_then(|format| lora?.write(Path::new(to), format)).map_err(|e| Labels::default().thrown(&e))
}

/// The image at `path` as a training at `side` pixels sees it: RGBA.
#[wasm_bindgen]
pub fn prepare(path: &str, side: usize) -> Result<Uint8Array, JsValue> {
    let cut = || io::Picture::open(path)?.cover(side, side, io::Crop::CENTER);
    cut().map(|picture| opaque(&picture.rgb)).map_err(|e| Labels::default().thrown(&e))
}
