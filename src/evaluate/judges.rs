//! Vision models that judge images, in place of the built-in measure.

use std::path::PathBuf;

use crate::error::Result;
use crate::pipeline::context::Context;

use super::colour::BLIND_TO;
use super::judge::Seen;
use super::measures::UnitVectors;
use super::options::EvaluateOptions;
use super::prompts::Prompt;

/// Vision models of an evaluation.
pub(super) struct Vision {
}

impl Vision {
    /// Opens the models that `job` names.
    pub fn open(_job: &EvaluateOptions) -> Result<Vision> {
        Ok(Vision {})
    }

    /// Returns whether likeness is by colour alone.
    pub fn by_colour(&self) -> bool {
        true
    }

    /// Name of what judges likeness.
    pub fn likeness_name(&self) -> String {
        "colour".into()
    }

    /// Name of the CLIP model.
    pub fn clip_name(&self) -> Option<String> {
        None
    }

    /// Sentence on what the judges cannot see.
    pub fn blind_to(&self) -> Option<String> {
        self.by_colour().then(|| BLIND_TO.to_owned())
    }

    /// Embeds the images in the files `paths`, of which `colours` are the embeddings by colour.
    pub async fn see(&self, _context: &Context, _paths: &[PathBuf], colours: Seen) -> Result<Seen> {
        Ok(colours)
    }

    /// Embeds the prompts without their identifier; `None` without a CLIP model or a class prompt.
    pub async fn read(&self, _context: &Context, _prompts: &[Prompt]) -> Result<Option<UnitVectors>> {
        Ok(None)
    }
}
