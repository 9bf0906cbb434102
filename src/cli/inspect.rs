//! `portray inspect`: what a file or folder is.

use std::collections::BTreeMap;
use std::path::Path;

use portray::io::checkpoints::original::{TAKES, is_checkpoint, other};
use portray::io::lora_file::is_adapter_key;
use portray::io::{Checkpoint, LoraFile, Part, SafeTensors, Weights};
use portray::models::{UnetConfig, VaeConfig};
use portray::{Error, Flow, Model, ModelOptions, Result};
use serde_json::{Value, json};

use super::args::{Global, InspectArgs};
use super::{table, terminal};

/// What was found, as a heading, lines for people and the same for programs.
struct Finding {
    heading: String,
    rows: Vec<(String, String)>,
    lists: Vec<(String, Vec<String>)>,
    json: Value,
}

/// Says what `args.path` is.
pub fn run(global: &Global, args: &InspectArgs) -> Result<()> {
    let mut finding = look(&args.path, args.model.as_deref())?;
    if args.path.to_str().is_none() {
        finding.json = terminal::with_path(finding.json, "path", &args.path);
    }
    if global.json {
        return terminal::data(finding.json);
    }
    terminal::data(terminal::one_line(&finding.heading))?;
    let rows: Vec<Vec<String>> =
        finding.rows.iter().map(|(label, value)| vec![format!("  {label}"), value.clone()]).collect();
    let width = rows.iter().map(|r| r[0].chars().count()).max().unwrap_or(0);
    rows.iter().try_for_each(|r| terminal::data(format!("{:<width$}  {}", r[0], r[1])))?;
    for (title, items) in &finding.lists {
        terminal::data(format!("  {title}"))?;
        items.iter().try_for_each(|item| terminal::data(format!("    {item}")))?;
    }
    Ok(())
}

fn look(path: &Path, model: Option<&Path>) -> Result<Finding> {
    if !path.exists() {
        return Err(Error::file(path, "no such file or folder"));
    }
    if path.join("model_index.json").exists() {
        return whole_model(&Checkpoint::open(path)?, path);
    }
    let model = model.map(Checkpoint::open).transpose()?;
    if path.is_dir() {
        let adapter = ["adapter_config.json", "pytorch_lora_weights.safetensors"].iter().any(|f| path.join(f).exists());
        let part = ["config.json", "scheduler_config.json"].iter().any(|file| path.join(file).exists());
        // The refusal says which model it is a part of.
        return if part && !adapter { whole_model(&Checkpoint::open(path)?, path) } else { lora(path, model.as_ref()) };
    }
    // A pickle or another format is refused as what it is.
    let file = SafeTensors::open(path).map_err(|e| Checkpoint::open(path).err().unwrap_or(e))?;
    if is_checkpoint(&file) {
        return whole_model(&Checkpoint::open(path)?, path);
    }
    if file.names().any(is_adapter_key) {
        return lora(path, model.as_ref());
    }
    match model {
        Some(_) => Err(Error::file(path, "--model goes with a LoRA, but this file has no LoRA keys")),
        None => Ok(tensors(&file, other(&file))),
    }
}

/// A file of which no more is known than `what` it is, where its names tell.
fn tensors(file: &SafeTensors, what: Option<String>) -> Finding {
    let mut types: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut count, mut elements) = (0, 0);
    for tensor in file.iter() {
        *types.entry(tensor.dtype.name()).or_default() += tensor.elements();
        count += 1;
        elements += tensor.elements();
    }
    let listed = file.iter().take(20).map(|t| format!("{} {} {:?}", t.name, t.dtype.name(), t.shape)).collect();
    let mut lists = vec![("tensors".to_owned(), listed)];
    if count > 20 {
        lists.push((format!("and {} more", count - 20), Vec::new()));
    }
    let metadata = file.metadata();
    let heading = match &what {
        Some(what) => format!("{}: {what}, {count} tensors; {TAKES}", file.name()),
        None => format!("{}: {count} tensors", file.name()),
    };
    Finding {
        heading,
        rows: vec![("elements".into(), table::count(elements)), ("types".into(), share(&types))],
        lists,
        json: json!({"event": "tensors", "file": file.name(), "is": what, "tensors": count, "elements": elements, "types": types, "metadata": metadata}),
    }
}

fn share(types: &BTreeMap<&str, usize>) -> String {
    match types.len() {
        1 => types.keys().map(|t| (*t).to_owned()).collect(),
        _ => types.iter().map(|(t, n)| format!("{t} ({})", table::count(*n))).collect::<Vec<_>>().join(", "),
    }
}

fn part_types(weights: &Weights) -> (BTreeMap<&'static str, usize>, usize) {
    let mut types = BTreeMap::new();
    let mut bytes = 0;
    for tensor in weights.iter() {
        *types.entry(tensor.dtype.name()).or_default() += tensor.elements();
        bytes += tensor.byte_len();
    }
    (types, bytes)
}

/// Width and height of the pictures that `model` was made for. A configuration that is not supported is still described.
fn pixels(model: &Checkpoint) -> Option<[usize; 2]> {
    let config = |part: Part| (model.part(part).config_source().name(), model.part(part).config().to_string());
    let latent = UnetConfig::parse(config(Part::Unet).0, &config(Part::Unet).1).map(|unet| unet.latent_size());
    let factor = VaeConfig::parse(config(Part::Vae).0, &config(Part::Vae).1).map(|vae| vae.factor());
    latent.ok().zip(factor.ok()).map(|([h, w], factor)| [w * factor, h * factor])
}

/// Why no job can use the model at `path`, if none can, and what is to be said of its files.
fn usable(path: &Path) -> (Option<Error>, Vec<String>) {
    let options = ModelOptions { model: Some(path.into()), ..ModelOptions::default() };
    let checked = Model::open(&options, &[], &mut |_| Flow::Continue).and_then(|model| model.check_weights());
    checked.map_or_else(|fault| (Some(fault), Vec::new()), |notes| (None, notes))
}

/// Whether the UNet of `model` reads a mask and masked latents beside its latents.
fn inpaints(model: &Checkpoint) -> bool {
    let channels = |part: Part, field: &str| model.part(part).config().get(field).and_then(Value::as_u64).unwrap_or(4);
    channels(Part::Unet, "in_channels") == 2 * channels(Part::Vae, "latent_channels") + 1
}

fn whole_model(model: &Checkpoint, path: &Path) -> Result<Finding> {
    let mut rows = Vec::new();
    let mut parts = serde_json::Map::new();
    for part in Part::ALL {
        let weights = model.part(part);
        let (types, bytes) = part_types(weights);
        let parameters = weights.parameters();
        let text =
            format!("{} parameters, {}, {}", table::count(parameters), share(&types), table::bytes(bytes as u64));
        rows.push((part.name().to_owned(), text));
        parts.insert(part.name().into(), json!({"parameters": parameters, "types": types, "bytes": bytes}));
    }
    let unet = model.part(Part::Unet).config();
    let field = |config: &Value, name: &str| config.get(name).filter(|v| !v.is_null()).cloned().unwrap_or(Value::Null);
    let width = field(unet, "cross_attention_dim");
    let family = match width.as_u64() {
        Some(768) => "Stable Diffusion 1.x",
        Some(1024) => "Stable Diffusion 2.x",
        _ => "of the Stable Diffusion 1.x / 2.x family",
    };
    let layout = if model.folder().is_some() { "diffusers folder" } else { "single-file checkpoint" };
    let scheduler = model.scheduler();
    let class = scheduler.get("_class_name").and_then(Value::as_str).unwrap_or("unnamed");
    let prediction = scheduler.get("prediction_type").and_then(Value::as_str).unwrap_or("epsilon");
    let size = pixels(model);
    rows.push(("scheduler".into(), class.into()));
    let predicts = match model.prediction_by() {
        Some(by) => format!("{prediction}, by {by}"),
        None => "not said: seen when it runs, or --prediction".into(),
    };
    rows.push(("predicts".into(), predicts));
    let inpaints = inpaints(model);
    rows.extend(inpaints.then(|| ("kind".to_owned(), "inpainting: generate takes --init and --mask".to_owned())));
    let said = |size: Option<[usize; 2]>| size.map_or("-".into(), |[w, h]| format!("{w}x{h} pixels"));
    let mut made_for = said(size);
    if !model.prediction_known() {
        let mut other = model.clone();
        other.predicts_velocity();
        if pixels(&other) != size {
            made_for = format!("{made_for}, or {} if it predicts velocity", said(pixels(&other)));
        }
    }
    rows.push(("made for".into(), made_for));
    rows.push(("UNet channels".into(), field(unet, "block_out_channels").to_string()));
    rows.push(("context width".into(), width.to_string()));
    rows.push(("LoRA layers".into(), model.modules().unet.len().to_string()));
    let (fault, unread) = usable(path);
    let fault = fault.map(|fault| fault.to_string());
    rows.extend(fault.iter().map(|fault| ("cannot be used".to_owned(), terminal::one_line(fault))));
    let notes: Vec<&String> = model.notes().iter().chain(&unread).collect();
    rows.extend(notes.iter().map(|note| ("note".to_owned(), terminal::one_line(note))));
    Ok(Finding {
        heading: format!("{}: a {layout}, {family}", model.name()),
        rows,
        lists: Vec::new(),
        json: json!({"event": "model", "model": model.name(), "layout": layout, "family": family, "parts": parts, "scheduler": class,
            "prediction": model.prediction_known().then_some(prediction), "pixels": size.map(|[_, height]| height), "context_width": width, "inpaints": inpaints, "cannot_be_used": fault, "notes": notes, "fingerprint": model.fingerprint()?}),
    })
}

fn lora(path: &Path, model: Option<&Checkpoint>) -> Result<Finding> {
    let modules = model.map(Checkpoint::modules);
    let lora = LoraFile::open(path, modules.as_ref())?;
    let in_part = |part| lora.layers().iter().filter(|key| key.part == part).count();
    let layout = lora.layout.map_or_else(|| "unknown".to_owned(), |layout| layout.describe());
    let changes = lora.changes.values().map(|c| c.scale() as f32);
    let mut scales: Vec<f32> = lora.modules.values().map(|m| m.scale()).chain(changes).collect();
    scales.sort_by(f32::total_cmp);
    let kinds = lora.kinds();
    let listed: Vec<String> = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let scale = match (scales.first(), scales.last()) {
        (Some(a), Some(b)) if a == b => a.to_string(),
        (Some(a), Some(b)) => format!("{a} to {b}"),
        _ => "-".into(),
    };
    let (unet, text) = (in_part(Part::Unet), in_part(Part::TextEncoder));
    let mut rows = vec![
        ("layout".to_owned(), layout),
        ("kinds".to_owned(), if listed.is_empty() { "-".into() } else { listed.join(", ") }),
        ("rank".to_owned(), lora.rank().to_string()),
        ("alpha / rank".to_owned(), scale),
        ("UNet layers".to_owned(), unet.to_string()),
        ("text encoder layers".to_owned(), text.to_string()),
        ("parameters".to_owned(), table::count(lora.parameters())),
    ];
    rows.extend(lora.made_for().map(|family| ("made for".to_owned(), family)));
    let mut lists = Vec::new();
    let mut json = json!({"event": "lora", "file": lora.name, "layout": lora.layout, "kinds": kinds, "rank": lora.rank(),
        "made_for": lora.made_for(), "unet_layers": unet,
        "text_encoder_layers": text, "parameters": lora.parameters(), "metadata": lora.metadata});
    if !lora.metadata.is_empty() {
        lists.push((
            "metadata".into(),
            lora.metadata.iter().take(12).map(|(k, v)| shortened(&format!("{k}: {v}"))).collect(),
        ));
    }
    if let (Some(model), Some(modules)) = (model, &modules) {
        let report = lora.match_report(modules);
        let wrong: Vec<String> = report.mismatched.iter().map(ToString::to_string).collect();
        rows.push((format!("match {}", model.name()), format!("{} layers", report.matched.len())));
        json["matched"] = json!(report.matched.iter().map(ToString::to_string).collect::<Vec<_>>());
        json["unmatched"] = json!(report.unmatched);
        json["mismatched"] = json!(wrong);
        for (title, items) in [("not in the model", report.unmatched.clone()), ("of another size", wrong)] {
            if !items.is_empty() {
                lists.push((format!("{title}: {}", items.len()), items));
            }
        }
    } else if !lora.foreign.is_empty() {
        json["foreign"] = json!(lora.foreign);
        lists.push((
            format!("keys of no Stable Diffusion 1.x or 2.x layer: {}", lora.foreign.len()),
            lora.foreign.clone(),
        ));
    }
    Ok(Finding { heading: format!("{}: a LoRA", lora.name), rows, lists, json })
}

fn shortened(text: &str) -> String {
    let line = terminal::one_line(text);
    if line.chars().count() <= 100 { line } else { line.chars().take(97).chain("...".chars()).collect() }
}
