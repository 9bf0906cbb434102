//! A run's state on disk: `OUT.state/`, written beside, synced and renamed, so that it is always whole.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::gpu::Variants;
use crate::io::safetensors::{Tensor, write_safetensors};
use crate::io::{SafeTensors, write_folder};

/// Where a run stands: weights, moments, position, and what it was started with.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Updates done.
    pub step: usize,
    /// Options that decide the result.
    pub options: Value,
    /// Kernel variants: a resumed run uses the same.
    pub variants: Variants,
    /// The flat vectors, by key.
    pub tensors: Vec<(String, Vec<f32>)>,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Record {
    step: usize,
    options: Value,
    variants: Variants,
}

/// The state folder of a run that writes `out`.
pub fn state_folder(out: &Path) -> PathBuf {
    let mut name = out.as_os_str().to_os_string();
    name.push(".state");
    name.into()
}

impl State {
    /// Replaces what is at `folder`.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let record = Record { step: self.step, options: self.options.clone(), variants: self.variants.clone() };
        let json = serde_json::to_vec_pretty(&record).map_err(|e| Error::file(folder, e))?;
        write_folder(folder, |inside| {
            let path = inside.join("state.json");
            std::fs::write(&path, &json)
                .and_then(|()| std::fs::File::open(&path)?.sync_all())
                .map_err(|e| Error::file(&path, e))?;
            let tensors: Vec<Tensor> =
                self.tensors.iter().map(|(k, v)| Tensor::f32(k.clone(), &[v.len()], v)).collect();
            write_safetensors(inside.join("state.safetensors"), &tensors, &Default::default())
        })
    }

    /// Reads `folder`.
    pub fn load(folder: &Path) -> Result<State> {
        let path = folder.join("state.json");
        let text = std::fs::read(&path).map_err(|e| {
            Error::file(&path, format!("{e}: there is no checkpoint to resume; start without --resume"))
        })?;
        let record: Record = serde_json::from_slice(&text).map_err(|e| {
            Error::file(&path, format!("{e}: the checkpoint is damaged; delete the folder and start again"))
        })?;
        let file = SafeTensors::open(folder.join("state.safetensors"))?;
        let tensors = file.iter().map(|t| Ok((t.name.to_string(), t.to_f32()?))).collect::<Result<_>>()?;
        Ok(State { step: record.step, options: record.options, variants: record.variants, tensors })
    }

    /// An error naming the first option that differs from `options`.
    pub fn refuse_changed(&self, folder: &Path, options: &Value) -> Result<()> {
        let (Some(saved), Some(now)) = (self.options.as_object(), options.as_object()) else {
            return Err(Error::file(folder, "holds no options; delete it and start again"));
        };
        for key in now.keys().chain(saved.keys()) {
            let (was, is) = (saved.get(key).unwrap_or(&Value::Null), now.get(key).unwrap_or(&Value::Null));
            if was != is {
                let name = key.replace('_', "-");
                let message = format!(
                    "was started with --{name} {was}, not {is}; give the same option or start again without --resume"
                );
                return Err(Error::file(folder, message));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_as_it_was_and_refuses_what_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = state_folder(&folder.path().join("x.safetensors"));
        let options = serde_json::json!({"lr": 0.1, "max_grad_norm": 1.0});
        let tensors = vec![("m".to_string(), vec![1.0, -2.5])];
        let state = State { step: 7, options: options.clone(), variants: Variants::default(), tensors };
        state.save(&path).unwrap();
        state.save(&path).unwrap();
        let back = State::load(&path).unwrap();
        assert_eq!(back, state);
        assert!(back.refuse_changed(&path, &options).is_ok());
        let error = back.refuse_changed(&path, &serde_json::json!({"lr": 0.1, "max_grad_norm": 2.0})).unwrap_err();
        assert!(error.to_string().contains("--max-grad-norm"), "{error}");
        std::fs::write(path.join("state.safetensors"), b"short").unwrap();
        assert!(State::load(&path).is_err());
        std::fs::write(path.join("state.json"), b"{").unwrap();
        assert!(State::load(&path).is_err());
    }
}
