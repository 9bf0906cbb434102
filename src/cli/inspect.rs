//! `portray inspect`: what a file or folder is.

use std::collections::BTreeMap;
use std::path::Path;

use portray::error::{Message, option};
use portray::low_level::family::TAKES;
use portray::low_level::family::single_file::{is_checkpoint, other};
use portray::low_level::io::lora_file::is_adapter_key;
use portray::low_level::io::{Checkpoint, LoraFile, PartId, SafeTensors};
use portray::low_level::pipeline::{PartReport, native_size};
use portray::{Error, Flow, LoraReport, Model, ModelOptions, ModelReport, Result};
use serde_json::{Value, json};

use super::args::{Global, InspectArgs};
use super::words::CommandLine;
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
        Some(_) => Err(Error::file(path, option("model") + " goes with a LoRA, but this file has no LoRA keys")),
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

/// Adds to `report` how the model at `path` runs where nothing is asked for, or why no job can use it.
fn with_use(report: ModelReport, path: &Path) -> ModelReport {
    let options = ModelOptions { model: Some(path.into()), ..ModelOptions::default() };
    let opened = Model::open(&options, &[], &mut |_| Flow::Continue);
    let checked = opened.and_then(|model| Ok((model.check_weights()?, model)));
    match checked {
        Err(fault) => ModelReport { cannot_be_used: Some(fault.message()), ..report },
        Ok((unread, model)) => {
            // A scheduler without a sampler of its own still runs with one that is asked for.
            let mut report = model.report(&options).unwrap_or(report);
            report.notes.extend(unread.into_iter().map(Message::from));
            report
        }
    }
}

fn whole_model(model: &Checkpoint, path: &Path) -> Result<Finding> {
    let report = with_use(ModelReport::of_files(model)?, path);
    let mut rows = Vec::new();
    for part in PartId::ALL {
        let Some(PartReport { parameters, types, bytes }) = report.parts.get(part.name()) else { continue };
        let text =
            format!("{} parameters, {}, {}", table::count(*parameters), share(types), table::bytes(*bytes as u64));
        rows.push((part.name().to_owned(), text));
    }
    rows.push(("scheduler".into(), report.scheduler.clone()));
    let prediction = model.scheduler().get("prediction_type").and_then(Value::as_str).unwrap_or("epsilon");
    let predicts = match model.prediction_by() {
        Some(by) => format!("{prediction}, by {by}"),
        None => "not said: seen when it runs, or --prediction".into(),
    };
    rows.push(("predicts".into(), predicts));
    rows.extend(
        report.inpaints.then(|| ("kind".to_owned(), "inpainting: generate takes --init and --mask".to_owned())),
    );
    let said = |size: Option<[usize; 2]>| size.map_or("-".into(), |[w, h]| format!("{w}x{h} pixels"));
    let size = native_size(model);
    let mut made_for = said(size);
    if !model.prediction_known() {
        let mut other = model.clone();
        other.predicts_velocity();
        if native_size(&other) != size {
            made_for = format!("{made_for}, or {} if it predicts velocity", said(native_size(&other)));
        }
    }
    rows.push(("made for".into(), made_for));
    let unet = model.part(PartId::UNET)?.config();
    let field = |name: &str| unet.get(name).cloned().unwrap_or(Value::Null).to_string();
    rows.push(("UNet channels".into(), field("block_out_channels")));
    rows.push(("context width".into(), field("cross_attention_dim")));
    rows.push(("LoRA layers".into(), report.lora_layers.to_string()));
    let mut line = |label: &str, text: &Message| {
        rows.push((label.to_owned(), terminal::one_line(&text.in_words(&CommandLine))));
    };
    report.cannot_be_used.iter().for_each(|fault| line("cannot be used", fault));
    report.notes.iter().for_each(|note| line("note", note));
    Ok(Finding {
        heading: format!("{}: a {}, {}", report.model, report.layout, report.family),
        rows,
        lists: Vec::new(),
        json: report.to_json(&CommandLine),
    })
}

fn lora(path: &Path, model: Option<&Checkpoint>) -> Result<Finding> {
    let modules = model.map(Checkpoint::modules);
    let lora = LoraFile::open(path, modules.as_ref())?;
    let report = LoraReport::new(&lora, modules.as_ref());
    let changes = lora.changes.values().map(|c| c.scale() as f32);
    let mut scales: Vec<f32> = lora.modules.values().map(|m| m.scale()).chain(changes).collect();
    scales.sort_by(f32::total_cmp);
    let listed: Vec<String> = report.kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let scale = match (scales.first(), scales.last()) {
        (Some(a), Some(b)) if a == b => a.to_string(),
        (Some(a), Some(b)) => format!("{a} to {b}"),
        _ => "-".into(),
    };
    let mut rows = vec![
        ("layout".to_owned(), lora.layout.map_or_else(|| "unknown".to_owned(), |layout| layout.describe())),
        ("kinds".to_owned(), if listed.is_empty() { "-".into() } else { listed.join(", ") }),
        ("rank".to_owned(), report.rank.to_string()),
        ("alpha / rank".to_owned(), scale),
        ("UNet layers".to_owned(), report.unet_layers.to_string()),
        ("text encoder layers".to_owned(), text_layers(&report)),
        ("parameters".to_owned(), table::count(report.parameters)),
    ];
    rows.extend(report.made_for.iter().map(|family| ("made for".to_owned(), family.clone())));
    if let (Some(model), Some(matched)) = (model, &report.matched) {
        rows.push((format!("match {}", model.name()), format!("{} layers", matched.len())));
    }
    let metadata = report.metadata.iter().take(12).map(|(k, v)| shortened(&format!("{k}: {v}"))).collect();
    let mut lists = vec![("metadata".to_owned(), metadata)];
    let titles = ["not in the model", "of another size", "keys of no layer"];
    for (title, items) in titles.iter().zip([&report.unmatched, &report.mismatched, &report.foreign]) {
        let items = items.clone().unwrap_or_default();
        lists.push((format!("{title}: {}", items.len()), items));
    }
    lists.retain(|(_, items)| !items.is_empty());
    let json = serde_json::to_value(&report).unwrap_or_default();
    Ok(Finding { heading: format!("{}: a LoRA", lora.name), rows, lists, json })
}

/// Layers of the text encoders; of two, how many of each.
fn text_layers(report: &LoraReport) -> String {
    let (all, second) = (report.text_encoder_layers, report.second_text_encoder_layers);
    if second == 0 { all.to_string() } else { format!("{all} ({} in the first, {second} in the second)", all - second) }
}

fn shortened(text: &str) -> String {
    let line = terminal::one_line(text);
    if line.chars().count() <= 100 { line } else { line.chars().take(97).chain("...".chars()).collect() }
}
