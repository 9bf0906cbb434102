//! Checks of numbers that users give, which name the option and the limit.

use std::path::Path;

use crate::error::{Error, Message, Result, message, option};
use crate::io::files;

use super::LoraArg;

/// The longest side of an image in pixels: what WebGPU promises of a texture.
pub(crate) const LONGEST_SIDE: usize = 8192;
/// The most that a count of a training may be; far above what fits anywhere.
pub(crate) const MOST: usize = 1_000_000;

/// Each of `counts` that is given is at least one, and none is beyond reason.
pub(crate) fn check_counts(counts: &[(&'static str, Option<usize>)]) -> Result<()> {
    match counts.iter().find(|(_, n)| n.is_some_and(|n| !(1..=MOST).contains(&n))) {
        Some((name, Some(0))) => Err(Error::value(name, 0, "must be 1 or more")),
        Some((name, n)) => Err(Error::value(name, n.unwrap_or(0), format!("must be {MOST} or less"))),
        None => Ok(()),
    }
}

/// Each of `numbers` that is given is one that f32 holds, and above 0, or at least 0.
pub(crate) fn check_numbers(numbers: &[(&'static str, Option<f64>)], zero: bool) -> Result<()> {
    let fits = |v: f64| (v as f32).is_finite() && (v > 0.0 || (zero && v == 0.0));
    match numbers.iter().find_map(|(name, v)| v.filter(|v| !fits(*v)).map(|v| (name, v))) {
        Some((name, v)) if v > 1.0 => Err(Error::value(name, format!("{v:?}"), "is more than f32 holds")),
        Some((name, v)) if zero => Err(Error::value(name, v, "must be 0 or more")),
        Some((name, v)) => Err(Error::value(name, v, "must be above 0")),
        None => Ok(()),
    }
}

/// Refuses scales of LoRAs that f32 does not hold, and what stands for one and is no number.
pub(crate) fn check_loras(loras: &[LoraArg]) -> Result<()> {
    if let Some(lora) = loras.iter().find(|lora| !(lora.scale as f32).is_finite()) {
        let value = format!("{}={:?}", lora.path.display(), lora.scale);
        return Err(Error::value("loras", value, "the scale must be a number that f32 holds, such as 0.8"));
    }
    match loras.iter().find(|lora| has_strange_scale(&lora.path)) {
        Some(lora) => {
            let problem = "the scale behind '=' must be a finite number, such as 0.8";
            Err(Error::value("loras", lora.path.display(), problem))
        }
        None => Ok(()),
    }
}

/// Returns whether `path` is no file and has, before its last `=`, the name of one: what stands behind that was meant as a
/// scale.
pub(crate) fn has_strange_scale(path: &Path) -> bool {
    let name = path.to_string_lossy();
    !files::exists(path) && name.rsplit_once('=').is_some_and(|(file, _)| files::exists(file))
}

/// What is given of `options`, as one sentence after `why`; nothing where nothing is.
pub(crate) fn without_effect(why: Message, options: &[(&'static str, bool)]) -> Option<Message> {
    let given: Vec<_> = options.iter().filter(|(_, given)| *given).map(|(name, _)| option(*name)).collect();
    (!given.is_empty()).then(|| message![why, ": without effect here: ", Message::join(given, ", ")])
}

/// The problem of a usage error.
#[cfg(test)]
pub(crate) fn said<T: std::fmt::Debug>(result: Result<T>) -> String {
    match result {
        Err(Error::Usage { problem, .. }) => problem.to_string(),
        other => panic!("{other:?}"),
    }
}
