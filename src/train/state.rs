//! A run's state on disk, in `OUT.state/`: one file, written beside, synced and renamed, so that it is always whole.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Message, Remedy, Result, message, option};
use crate::gpu::Variants;
use crate::io::safetensors::{ElementType, Tensor, first_non_finite, write_safetensors};
use crate::io::source::describe;
use crate::io::{SafeTensors, files};

use super::evaluation::History;

/// Where a run stands: weights, moments, position, and what it was started with.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Updates done.
    pub step: usize,
    /// Options that decide the result.
    pub options: Value,
    /// Kernel variants: a resumed run uses the same.
    pub variants: Variants,
    /// Evaluations so far.
    pub evaluations: History,
    /// The vectors that an update changes, by key.
    pub tensors: Vec<(String, Values)>,
}

/// A vector of a state.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Numbers.
    F32(Vec<f32>),
    /// Words of packed moments.
    Words(Vec<u32>),
}

impl Values {
    /// What `bytes` of the store are.
    pub fn new(bytes: &[u8], packed: bool) -> Values {
        match packed {
            true => Values::Words(bytemuck::pod_collect_to_vec(bytes)),
            false => Values::F32(bytemuck::pod_collect_to_vec(bytes)),
        }
    }

    /// As they are stored.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Values::F32(values) => bytemuck::cast_slice(values),
            Values::Words(words) => bytemuck::cast_slice(words),
        }
    }

    fn len(&self) -> usize {
        self.bytes().len() / 4
    }

    fn tensor<'a>(&'a self, name: &str) -> Tensor<'a> {
        let dtype = if matches!(self, Values::F32(_)) { ElementType::F32 } else { ElementType::U32 };
        Tensor::raw(name, dtype, &[self.len()], self.bytes())
    }
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Record {
    step: usize,
    options: Value,
    variants: Variants,
    #[serde(default)]
    evaluations: History,
    /// Name and length of every vector.
    tensors: BTreeMap<String, usize>,
}

/// The metadata field that holds the [`Record`].
const RECORD: &str = "record";
/// The one file of a state, in its folder: it is replaced by one rename, so a kill at any moment leaves the old or the new
/// state.
pub const STATE_FILE: &str = "state.safetensors";
/// What a state with random crops holds of them: how many views of an image there are at most. States of Portray 0.2 and
/// before hold none.
pub(super) const VIEWS: &str = "views";
const DAMAGED: &str = "the checkpoint is damaged; delete the folder and start again";

/// The state folder of a run that writes `out`.
pub fn state_folder(out: &Path) -> PathBuf {
    let mut name = out.as_os_str().to_os_string();
    name.push(".state");
    name.into()
}

impl State {
    /// Whether a state is at `folder`.
    ///
    /// # Errors
    /// [`Error::File`] when something else is there, which a state would lie among or replace.
    pub fn is_at(folder: &Path) -> Result<bool> {
        if !files::is_taken(folder) {
            return Ok(false);
        }
        let remedy = message![", where the state of the run belongs: move it, or name another ", option("out")];
        if !files::is_folder(folder) {
            return Err(Error::file(folder, message!["is not a folder", remedy]));
        }
        let file = folder.join(STATE_FILE);
        if files::is_taken(&file) {
            let ours = SafeTensors::open(&file).is_ok_and(|file| file.metadata().contains_key(RECORD));
            return if ours {
                Ok(true)
            } else {
                Err(Error::file(file, message!["is not a state, or damaged", remedy]))
            };
        }
        let entries = files::entries(folder).map_err(|e| Error::file(folder, describe(&e)))?;
        match entries.iter().find(|path| !files::is_staging(path)) {
            Some(path) => {
                let name = path.file_name().unwrap_or_default();
                Err(Error::file(folder, message![format!("holds {name:?} and no state"), remedy]))
            }
            None => Ok(false),
        }
    }

    /// Removes the state at `folder`, and the folder if nothing else is in it.
    ///
    /// # Errors
    /// [`Error::File`] when a file of it cannot be removed.
    pub fn remove(folder: &Path) -> Result<()> {
        let left = |path: &Path| files::entries(path).unwrap_or_default().into_iter().filter(|p| files::is_staging(p));
        let file = folder.join(STATE_FILE);
        for path in left(folder).chain(files::is_file(&file).then_some(file)) {
            files::remove_file(&path).map_err(|e| Error::file(&path, describe(&e)))?;
        }
        // What a user put there is the user's.
        let _ = files::remove_empty(folder);
        Ok(())
    }

    /// Refuses values that no training goes on from.
    ///
    /// # Errors
    /// [`Error::File`] naming `folder` and the first value that is not finite.
    pub fn check(&self, folder: &Path) -> Result<()> {
        for (name, values) in &self.tensors {
            let Values::F32(values) = values else { continue };
            if let Some(i) = first_non_finite(values) {
                let fault = format!("tensor '{name}' holds {} after optimizer step {}: lower ", values[i], self.step);
                return Err(Error::file(folder, message![fault, option("lr")]));
            }
        }
        Ok(())
    }

    /// Replaces what is at `folder`.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be written or a value is not finite; an older state stays in place then.
    pub fn save(&self, folder: &Path) -> Result<()> {
        self.check(folder)?;
        let tensors = self.tensors.iter().map(|(name, values)| (name.clone(), values.len())).collect();
        let (options, variants) = (self.options.clone(), self.variants.clone());
        let record = Record { step: self.step, options, variants, evaluations: self.evaluations.clone(), tensors };
        let json = serde_json::to_string(&record).map_err(|e| Error::file(folder, e.to_string()))?;
        let tensors: Vec<Tensor> = self.tensors.iter().map(|(key, values)| values.tensor(key)).collect();
        write_safetensors(folder.join(STATE_FILE), &tensors, &BTreeMap::from([(RECORD.to_owned(), json)]))
    }

    /// Reads `folder`; `None` where no state was saved.
    ///
    /// # Errors
    /// [`Error::File`] when it is truncated or damaged.
    pub fn load(folder: &Path) -> Result<Option<State>> {
        let path = folder.join(STATE_FILE);
        if !files::exists(&path) {
            return Ok(None);
        }
        let file = SafeTensors::open(&path)?;
        let json = file.metadata().get(RECORD).ok_or_else(|| Error::file(&path, DAMAGED))?;
        let mut record: Record =
            serde_json::from_str(json).map_err(|e| Error::file(&path, format!("{e}: {DAMAGED}")))?;
        if file.names().len() != record.tensors.len() {
            let (found, named) = (file.names().len(), record.tensors.len());
            return Err(Error::file(&path, format!("holds {found} tensors, its record names {named}: {DAMAGED}")));
        }
        let mut tensors = Vec::with_capacity(record.tensors.len());
        for (name, length) in std::mem::take(&mut record.tensors) {
            let tensor = file.get(&name)?;
            if *tensor.shape != [length] {
                return Err(tensor.error(format!("is {:?}, its record names {length} values: {DAMAGED}", tensor.shape)));
            }
            let values = match tensor.dtype {
                ElementType::U32 => Values::new(&tensor.bytes()?, true),
                _ => Values::F32(tensor.to_finite_f32()?),
            };
            tensors.push((name, values));
        }
        let Record { step, options, variants, evaluations, .. } = record;
        Ok(Some(State { step, options, variants, evaluations, tensors }))
    }

    /// An error naming every option that differs from `options`.
    pub fn refuse_changed(&self, folder: &Path, options: &Value) -> Result<()> {
        let (Some(saved), Some(now)) = (self.options.as_object(), options.as_object()) else {
            return Err(Error::file(folder, "holds no options; delete it and start again"));
        };
        if now.contains_key(VIEWS) && saved.get("crop") == now.get("crop") && saved.get(VIEWS) != now.get(VIEWS) {
            let message = message![
                "was begun by another version of Portray, which cropped images in another way for ",
                option("crop"),
                " random: finish it with that version or ",
                Remedy::StartAnew
            ];
            return Err(Error::file(folder, message));
        }
        let keys: BTreeSet<&String> = now.keys().chain(saved.keys()).collect();
        let mut changes = Vec::new();
        for key in keys {
            // A number of class images counts where it is given.
            let given =
                |options: &serde_json::Map<String, Value>| options.get(key).is_some_and(|value| !value.is_null());
            if key == VIEWS || key == "class_count" && !(given(saved) && given(now)) {
                continue;
            }
            let (was, is) = (saved.get(key).unwrap_or(&Value::Null), now.get(key).unwrap_or(&Value::Null));
            if was != is {
                changes.push(option(key.clone()) + format!(" {was}, not {is}"));
            }
        }
        if changes.is_empty() {
            return Ok(());
        }
        let changes = message!["was started with ", Message::join(changes, "; ")];
        Err(Error::file(folder, message![changes, ": give the same options or ", Remedy::StartAnew]))
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
        let words = Values::Words(vec![7, u32::MAX]);
        let tensors = vec![("m".to_string(), Values::F32(vec![1.0, -2.5])), ("v".to_string(), words)];
        let evaluation = crate::event::EvaluationReport { step: 3, loss: 0.1, score: Some(-0.3), ..Default::default() };
        let evaluations: History = serde_json::from_value(serde_json::json!([evaluation])).unwrap();
        let state = State { step: 7, options: options.clone(), variants: Variants::default(), evaluations, tensors };
        state.save(&path).unwrap();
        state.save(&path).unwrap();
        let back = State::load(&path).unwrap().unwrap();
        assert_eq!(back, state);
        assert!(back.refuse_changed(&path, &options).is_ok());
        let error = back.refuse_changed(&path, &serde_json::json!({"lr": 0.1, "max_grad_norm": 2.0})).unwrap_err();
        assert!(error.to_string().contains("max_grad_norm"), "{error}");
        std::fs::write(path.join("state.safetensors"), b"short").unwrap();
        assert!(State::load(&path).is_err());
    }

    fn state() -> State {
        let z = Values::F32(vec![1.0, f32::MIN_POSITIVE / 2.0, -0.0]);
        let tensors = vec![("m".to_string(), Values::F32(vec![])), ("z".to_string(), z)];
        let (options, evaluations) = (serde_json::json!({"lr": 0.1}), History::default());
        State { step: 7, options, variants: Variants::default(), evaluations, tensors }
    }

    /// What loading says once `change` was made to a saved state.
    fn fault(change: impl FnOnce(&Path)) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.state");
        state().save(&path).unwrap();
        assert_eq!(State::load(&path).unwrap(), Some(state()));
        change(&path);
        State::load(&path).unwrap_err().to_string()
    }

    /// Rewrites the file with another record.
    fn rewrite(path: &Path, change: impl Fn(&str) -> String) {
        let path = path.join(STATE_FILE);
        let file = SafeTensors::open(&path).unwrap();
        let metadata = BTreeMap::from([(RECORD.to_owned(), change(&file.metadata()[RECORD]))]);
        write_safetensors(&path, &file.iter().collect::<Vec<_>>(), &metadata).unwrap();
    }

    #[test]
    fn no_state_is_no_fault() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(State::load(&folder.path().join("x.state")).unwrap(), None);
    }

    #[test]
    fn damage_is_named() {
        let message = fault(|path| {
            let bytes = std::fs::read(path.join(STATE_FILE)).unwrap();
            std::fs::write(path.join(STATE_FILE), &bytes[..bytes.len() - 5]).unwrap();
        });
        assert!(message.contains(STATE_FILE), "{message}");
        for (from, to, expected) in [
            ("\"z\":3", "\"z\":4", "names 4 values"),
            ("\"z\":3", "\"y\":3", "no tensor 'y'"),
            ("\"m\":0,", "", "its record names 1"),
            ("{", "[", "damaged"),
        ] {
            let message = fault(|path| {
                rewrite(path, |text| {
                    assert!(text.contains(from), "{text}");
                    text.replacen(from, to, 1)
                });
            });
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn what_is_not_finite_leaves_the_older_state() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.state");
        state().save(&path).unwrap();
        let mut bad = state();
        bad.tensors[1].1 = Values::F32(vec![f32::NAN]);
        assert!(bad.save(&path).unwrap_err().to_string().contains("'z' holds NaN"));
        assert_eq!(State::load(&path).unwrap(), Some(state()));
    }

    #[test]
    fn a_run_of_a_version_that_cropped_otherwise_is_refused_by_name() {
        let now = serde_json::json!({"lr": 0.1, "crop": "random", VIEWS: 64, "bucket_step": null});
        let said = |options| {
            let state = State { options, ..state() };
            state.refuse_changed(Path::new("x.state"), &now).map_err(|e| e.to_string())
        };
        let message = said(serde_json::json!({"lr": 0.1, "crop": "random"})).unwrap_err();
        assert!(message.contains("another version") && message.contains("crop random"), "{message}");
        assert!(said(now.clone()).is_ok());
        let message = said(serde_json::json!({"lr": 0.1, "crop": "center"})).unwrap_err();
        assert!(message.contains("\"center\", not \"random\"") && !message.contains(VIEWS), "{message}");
        // What was not known then and is not asked for now has not changed.
        let center = serde_json::json!({"lr": 0.1, "bucket_step": null});
        assert!(state().refuse_changed(Path::new("x.state"), &center).is_ok());
    }

    #[test]
    fn every_changed_option_is_named() {
        let now = serde_json::json!({"lr": 0.2, "rank": 8});
        let message = state().refuse_changed(Path::new("x.state"), &now).unwrap_err().to_string();
        assert!(message.contains("lr 0.1, not 0.2; rank null, not 8"), "{message}");
    }
}
