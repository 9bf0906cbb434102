//! What a `config.json` must hold.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::PerBlock;
use crate::error::{Error, Result};

/// Reads `text`, refusing fields of `allowed` that are there with another value than the listed ones.
pub(super) fn read<T: DeserializeOwned>(path: &str, text: &str, allowed: &[(&str, Vec<Value>)]) -> Result<T> {
    let json: Value = serde_json::from_str(text).map_err(|e| Error::file(path, format!("not a config.json: {e}")))?;
    if !json.is_object() {
        return Err(Error::file(path, "not a config.json: holds no fields"));
    }
    for (field, values) in allowed {
        if let Some(value) = json.get(field).filter(|v| !values.contains(v)) {
            let listed = values.iter().map(Value::to_string).collect::<Vec<_>>().join(" or ");
            return Err(Error::file(path, format!("{field} is {value}; only {listed} is supported")));
        }
    }
    serde_json::from_value(json).map_err(|e| Error::file(path, e))
}

/// Errors that name the file and the field.
pub(super) struct Check<'a> {
    pub(super) path: &'a str,
}

impl Check<'_> {
    fn fail(&self, message: String) -> Result<()> {
        Err(Error::file(self.path, message))
    }

    pub(super) fn positive(&self, name: &str, value: usize) -> Result<()> {
        if value == 0 { self.fail(format!("{name} is 0")) } else { Ok(()) }
    }

    pub(super) fn eps(&self, name: &str, value: f64) -> Result<()> {
        if value > 0.0 && value.is_finite() { Ok(()) } else { self.fail(format!("{name} is {value}, must be above 0")) }
    }

    pub(super) fn divides(&self, name: &str, divisor: usize, channels: usize) -> Result<()> {
        if divisor == 0 || channels == 0 || !channels.is_multiple_of(divisor) {
            return self.fail(format!("{name} is {divisor}, which does not divide {channels} channels"));
        }
        Ok(())
    }

    pub(super) fn per_block(&self, name: &str, field: &PerBlock, blocks: usize) -> Result<()> {
        let values = field.values();
        if matches!(field, PerBlock::Each(_)) && values.len() != blocks {
            return self.fail(format!("{name} has {} values for {blocks} blocks", values.len()));
        }
        if values.contains(&0) { self.fail(format!("{name} holds a 0")) } else { Ok(()) }
    }

    pub(super) fn blocks(&self, types: &[String], name: &str, known: &[&str], blocks: usize) -> Result<()> {
        if types.len() != blocks || blocks == 0 {
            return self.fail(format!("{name} has {} values for {blocks} block_out_channels", types.len()));
        }
        match types.iter().find(|t| !known.contains(&t.as_str())) {
            Some(other) => self.fail(format!("{name} holds {other}; supported are {}", known.join(" and "))),
            None => Ok(()),
        }
    }
}
