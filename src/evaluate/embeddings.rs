//! Figures of embeddings that another program computed, from a safetensors file.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::{Error, Message, Result};
use crate::io::{SafeTensors, Tensor};

use super::figures::Sets;
use super::measures::{Figure, Figures, UnitVectors};

/// Tensors of embeddings that are read.
const KNOWN: [&str; 9] =
    ["real", "made", "clip_real", "clip_made", "clip_text", "class", "class_base", "unrelated", "unrelated_base"];

/// Figures of given embeddings, and what is missing for others.
#[derive(Clone, Debug)]
pub struct EmbeddingFigures {
    /// Figures that could be computed.
    pub figures: Figures,
    /// Sentences on figures that are left out, and on tensors that are not read. For people.
    pub notes: Vec<Message>,
}

/// Computes the figures of the embeddings in the file at `path`.
///
/// Tensors are `[N, D]`, one row per image or text, of any length: `real` (photos), `made` (images of the subject), `class`
/// and `class_base` (class images after training, and the base model's of the same seeds), `unrelated` and `unrelated_base`
/// (the same of other prompts), `clip_real`, `clip_made` and `clip_text`; `prompt` `[N]` (integers) is the row of `clip_text`
/// that image i of `made` and `clip_made` was made from. Each may be absent.
///
/// # Errors
/// [`Error::File`] if the file is no safetensors file or holds none of these tensors, or if two tensors do not fit each other
/// or a row has no direction.
pub fn figures_of_file(path: impl AsRef<Path>) -> Result<EmbeddingFigures> {
    let file = SafeTensors::open(path)?;
    let mut sets: BTreeMap<&str, UnitVectors> = BTreeMap::new();
    for name in KNOWN {
        if let Some(tensor) = file.find(name) {
            sets.insert(name, rows(&tensor)?);
        }
    }
    if sets.is_empty() {
        let expected = KNOWN.join(", ");
        return Err(Error::file(file.name(), format!("holds no embeddings: expected tensors called {expected}")));
    }
    check_widths(&file, &sets, &["real", "made", "class", "class_base", "unrelated", "unrelated_base"])?;
    check_widths(&file, &sets, &["clip_real", "clip_made", "clip_text"])?;
    for [one, other] in [["class", "class_base"], ["unrelated", "unrelated_base"], ["made", "clip_made"]] {
        check_rows(&file, &sets, one, other)?;
    }
    let prompt = prompt(&file, &sets)?;
    let get = |name: &str| sets.get(name);
    let pair = |one: &str, other: &str| Some([get(one)?, get(other)?]);
    // Nothing says which of these images share a prompt.
    let alone = vec![0; get("unrelated").map_or(0, UnitVectors::len)];
    let figures = Sets {
        real: get("real"),
        made: get("made"),
        made_scene: get("made"),
        prompt: prompt.as_deref(),
        clip_real: get("clip_real"),
        clip_made: get("clip_made"),
        clip_text: get("clip_text"),
        class: get("class"),
        class_pair: pair("class", "class_base"),
        unrelated_pair: pair("unrelated", "unrelated_base").map(|pair| (pair, &*alone)),
        by_colour: false,
    }
    .figures();
    Ok(EmbeddingFigures { notes: notes(&file, &figures), figures })
}

/// Reads the rows of `tensor`.
fn rows(tensor: &Tensor<'_>) -> Result<UnitVectors> {
    let &[count, width] = tensor.shape.as_ref() else {
        return Err(tensor.error(format!("has shape {:?}, expected [images, width]", tensor.shape)));
    };
    if count == 0 || width == 0 {
        return Err(tensor.error(format!("has shape {:?}: it is empty, leave it out", tensor.shape)));
    }
    let values = tensor.to_finite_f32()?;
    UnitVectors::new(width, values.into_iter().map(f64::from))
        .map_err(|row| tensor.error(format!("row {row} is all zeros: an embedding has a direction")))
}

fn check_widths(file: &SafeTensors, sets: &BTreeMap<&str, UnitVectors>, names: &[&str]) -> Result<()> {
    let mut there = names.iter().filter_map(|name| Some((name, sets.get(name)?.width())));
    let Some((first, width)) = there.next() else { return Ok(()) };
    match there.find(|(_, other)| *other != width) {
        Some((name, other)) => {
            let message =
                format!("'{first}' is {width} wide and '{name}' {other}: embeddings of one model are expected");
            Err(Error::file(file.name(), message))
        }
        None => Ok(()),
    }
}

fn check_rows(file: &SafeTensors, sets: &BTreeMap<&str, UnitVectors>, one: &str, other: &str) -> Result<()> {
    match (sets.get(one).map(UnitVectors::len), sets.get(other).map(UnitVectors::len)) {
        (Some(rows), Some(others)) if rows != others => {
            let message =
                format!("'{one}' has {rows} rows and '{other}' {others}: row by row they are of the same image");
            Err(Error::file(file.name(), message))
        }
        _ => Ok(()),
    }
}

/// Reads the prompt of each image.
fn prompt(file: &SafeTensors, sets: &BTreeMap<&str, UnitVectors>) -> Result<Option<Vec<usize>>> {
    let Some(tensor) = file.find("prompt") else { return Ok(None) };
    let numbers = tensor.to_i64()?;
    for name in ["made", "clip_made"] {
        if let Some(rows) = sets.get(name).map(UnitVectors::len).filter(|rows| *rows != numbers.len()) {
            let count = numbers.len();
            return Err(tensor.error(format!("has {count} numbers and '{name}' {rows} rows: expected one for each")));
        }
    }
    let texts = sets.get("clip_text").map_or(usize::MAX, UnitVectors::len);
    let index = |&number: &i64| {
        usize::try_from(number).ok().filter(|index| *index < texts).ok_or_else(|| match texts {
            usize::MAX => tensor.error(format!("holds {number}: prompts count from 0")),
            _ => tensor.error(format!("holds {number}: 'clip_text' has rows 0 to {}", texts - 1)),
        })
    };
    numbers.iter().map(index).collect::<Result<_>>().map(Some)
}

/// Says which figures are left out, for want of which tensors, and which tensors are not read.
fn notes(file: &SafeTensors, figures: &Figures) -> Vec<Message> {
    let needs: [(Figure, &[&str]); 7] = [
        (Figure::Dino, &["real", "made"]),
        (Figure::ClipI, &["clip_real", "clip_made"]),
        (Figure::ClipT, &["clip_made", "clip_text", "prompt"]),
        (Figure::Pres, &["class", "real"]),
        (Figure::Div, &["made", "prompt"]),
        (Figure::Drift, &["class", "class_base"]),
        (Figure::DriftUnrelated, &["unrelated", "unrelated_base"]),
    ];
    let left_out = needs.iter().filter(|(figure, _)| !figures.contains_key(figure)).map(|(figure, needed)| {
        let missing: Vec<&str> = needed.iter().copied().filter(|name| !file.contains(name)).collect();
        let why = match missing.is_empty() {
            true => "no prompt has two images".to_owned(),
            false => format!("{} has no {}", file.name(), missing.join(" and no ")),
        };
        format!("{} is left out: {why}", figure.name()).into()
    });
    let unread: Vec<&str> = file.names().filter(|name| !KNOWN.contains(name) && *name != "prompt").collect();
    let unread = (!unread.is_empty()).then(|| format!("{}: not read: {}", file.name(), unread.join(", ")).into());
    left_out.chain(unread).collect()
}
