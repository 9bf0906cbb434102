//! Configuration of a family's text encoders.

use super::description::Encoder;
use crate::error::Result;
use crate::io::Checkpoint;
use crate::models::TextEncoderConfig;

/// Class of a text encoder with a text projection, and of one without.
const CLASSES: [&str; 2] = ["CLIPTextModelWithProjection", "CLIPTextModel"];

impl Encoder {
    /// Returns its configuration in `checkpoint`. The family decides whether it has a text projection: first encoders are
    /// saved with one that nothing reads.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) if the part is missing, or its configuration is malformed or not supported.
    pub fn config(&self, checkpoint: &Checkpoint) -> Result<TextEncoderConfig> {
        let weights = checkpoint.part(self.part)?;
        let config = weights.config();
        // A whole CLIP's configuration holds that of its text encoder, which transformers takes.
        let inner = config.get("text_config").filter(|_| config.get("hidden_size").is_none());
        let mut config = inner.unwrap_or(config).clone();
        if let Some(fields) = config.as_object_mut() {
            fields.insert("architectures".into(), [CLASSES[usize::from(!self.pooled)]].as_slice().into());
        }
        TextEncoderConfig::parse(weights.config_source().name(), &config.to_string())
    }
}
