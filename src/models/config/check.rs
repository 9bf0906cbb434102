//! Checks of a `config.json`.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::depths::{Depth, Depths};
use super::per_block::PerBlock;
use crate::base::json;
use crate::error::{Error, Result};
use crate::ops::{Activation, WIDEST_HEAD};

/// Most channels of anything: far above any model, and low enough that no product of a few of them overflows.
pub(in crate::low_level::models) const CHANNELS: usize = 1 << 16;
/// Most layers of anything.
pub(in crate::low_level::models) const LAYERS: usize = 1000;
/// Most resolutions: each halves the last.
const BLOCKS: usize = 12;

/// Reads `text`, refusing fields of `allowed` that are there with another value than the listed ones, or with a list of
/// others.
pub(super) fn read<T: DeserializeOwned>(path: &str, text: &str, allowed: &[(&str, Vec<Value>)]) -> Result<T> {
    let json: Value = json::parse(text).map_err(|e| Error::file(path, format!("not a config.json: {e}")))?;
    if !json.is_object() {
        return Err(Error::file(path, "not a config.json: holds no fields"));
    }
    for (field, values) in allowed {
        let fine = |value: &Value| {
            let listed = value.as_array().filter(|list| !list.is_empty());
            values.contains(value) || listed.is_some_and(|list| list.iter().all(|one| values.contains(one)))
        };
        if let Some(value) = json.get(field).filter(|v| !fine(v)) {
            let listed = values.iter().map(Value::to_string).collect::<Vec<_>>().join(" or ");
            return Err(Error::file(path, format!("{field} is {value}; only {listed} is supported")));
        }
    }
    json::fields(&json).map_err(|e| Error::file(path, e))
}

/// Errors that name the file and the field.
pub(in crate::low_level::models) struct Check<'a> {
    pub(in crate::low_level::models) path: &'a str,
}

impl Check<'_> {
    pub(in crate::low_level::models) fn fail(&self, message: String) -> Result<()> {
        Err(Error::file(self.path, message))
    }

    /// `value` must lie within 1 and `most`.
    pub(in crate::low_level::models) fn count(&self, name: &str, value: usize, most: usize) -> Result<()> {
        match value {
            0 => self.fail(format!("{name} is 0, must be 1 or more")),
            _ if value > most => self.fail(format!("{name} is {value}, must be at most {most}")),
            _ => Ok(()),
        }
    }

    /// Activation of that name, one of transformers'.
    pub(in crate::low_level::models) fn activation(&self, name: &str) -> Result<Activation> {
        let known = "gelu, quick_gelu, gelu_new, gelu_pytorch_tanh, relu and silu";
        Activation::from_name(name)
            .ok_or_else(|| Error::file(self.path, format!("hidden_act is {name}; supported are {known}")))
    }

    /// Checks that heads are no wider than kernels take.
    pub(in crate::low_level::models) fn narrow_heads(&self, heads: usize, channels: usize) -> Result<()> {
        self.divides("num_attention_heads", heads, channels)?;
        if channels / heads > WIDEST_HEAD {
            let message = format!("num_attention_heads is {heads} for {channels} channels");
            return self.fail(format!("{message}: heads wider than {WIDEST_HEAD} are not supported"));
        }
        Ok(())
    }

    pub(in crate::low_level::models) fn eps(&self, name: &str, value: f64) -> Result<()> {
        if value > 0.0 && value.is_finite() { Ok(()) } else { self.fail(format!("{name} is {value}, must be above 0")) }
    }

    pub(in crate::low_level::models) fn divides(&self, name: &str, divisor: usize, channels: usize) -> Result<()> {
        if divisor == 0 || channels == 0 || !channels.is_multiple_of(divisor) {
            return self.fail(format!("{name} is {divisor}, which does not divide {channels} channels"));
        }
        Ok(())
    }

    /// Checks that attention can split `channels` into `heads`.
    pub(super) fn heads(&self, name: &str, heads: usize, channels: usize) -> Result<()> {
        if heads > 1 && channels / heads > WIDEST_HEAD {
            return self.fail(format!(
                "{name} is {heads} for {channels} channels: heads wider than {WIDEST_HEAD} must be single"
            ));
        }
        Ok(())
    }

    pub(super) fn per_block(&self, name: &str, field: &PerBlock, blocks: usize, most: usize) -> Result<()> {
        let values = field.values();
        if matches!(field, PerBlock::Each(_)) && values.len() != blocks {
            return self.fail(format!("{name} has {} values for {blocks} blocks", values.len()));
        }
        values.iter().try_for_each(|&value| self.count(name, value, most))
    }

    /// Checks transformer blocks: an entry for each of `blocks`, which has enough numbers for the `attentions` of a block.
    pub(super) fn depths(
        &self,
        name: &str,
        depths: &Depths,
        blocks: usize,
        attentions: &dyn Fn(usize) -> usize,
    ) -> Result<()> {
        if let Some(value) = depths.values().into_iter().find(|&value| value > LAYERS) {
            return self.fail(format!("{name} is {value}, must be at most {LAYERS}"));
        }
        let Depths::Each(list) = depths else { return Ok(()) };
        if list.len() != blocks {
            return self.fail(format!("{name} has {} values for {blocks} blocks", list.len()));
        }
        for (i, depth) in list.iter().enumerate() {
            if let Depth::Each(list) = depth
                && list.len() < attentions(i)
            {
                let (given, wanted) = (list.len(), attentions(i));
                return self.fail(format!("{name} has {given} values in list {i} for {wanted} attentions"));
            }
        }
        Ok(())
    }

    /// Checks the channels of every block.
    pub(super) fn channels(&self, channels: &[usize]) -> Result<()> {
        if channels.is_empty() || channels.len() > BLOCKS {
            return self.fail(format!("block_out_channels has {} values, must have 1 to {BLOCKS}", channels.len()));
        }
        channels.iter().try_for_each(|&value| self.count("block_out_channels", value, CHANNELS))
    }

    pub(super) fn blocks(&self, types: &[String], name: &str, known: &[&str], blocks: usize) -> Result<()> {
        if types.len() != blocks {
            return self.fail(format!("{name} has {} values for {blocks} block_out_channels", types.len()));
        }
        match types.iter().find(|t| !known.contains(&t.as_str())) {
            Some(other) => self.fail(format!("{name} holds {other}; supported are {}", known.join(" and "))),
            None => Ok(()),
        }
    }
}
