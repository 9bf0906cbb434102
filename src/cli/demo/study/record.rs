//! `study.json`: the options of a study, by which a later call knows whether it goes on with it, and its values.

use std::path::Path;

use portray::error::{Message, option};
use portray::low_level::io::write_atomic;
use portray::{Error, Result};
use serde_json::{Value, json};

use super::super::super::args::DemoArgs;
use super::super::scenes::Phrases;
use super::figures::Outcome;

/// Name of the file.
const FILE: &str = "study.json";

/// Options that decide a study's results.
pub struct Record(Value);

/// What lay in the folder of a study.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing, or this study.
    Same,
    /// One that is to be overwritten.
    Another,
}

impl Record {
    /// Those of a study of `phrases`' subject.
    pub fn new(args: &DemoArgs, phrases: &Phrases) -> Record {
        Record(json!({
            "prompt": phrases.instance,
            "class_prompt": phrases.class,
            "steps": args.steps,
            "sampling_steps": args.sampling_steps,
            "seeds": args.seeds,
            "seed": args.seed,
            "training_dtype": args.training_dtype,
        }))
    }

    /// Looks for an earlier study in `folder`, then writes this record there.
    ///
    /// # Errors
    /// [`Error::File`] if another study is there and not `force` asks to start anew, or the file cannot be read or
    /// written.
    pub fn settle(&self, folder: &Path, force: bool) -> Result<Found> {
        let path = folder.join(FILE);
        let found = match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Found::Same,
            Err(e) => return Err(Error::file(&path, e.to_string())),
            Ok(_) if force => Found::Another,
            Ok(bytes) => match self.change(&serde_json::from_slice(&bytes).unwrap_or_default()) {
                Some(change) => {
                    let remedy = option("force") + " starts anew, another " + option("out") + " keeps it";
                    let found = Message::from(format!("is of another study ({change}): "));
                    return Err(Error::file(&path, found + remedy));
                }
                None => Found::Same,
            },
        };
        let text = serde_json::to_vec_pretty(&self.0).unwrap_or_default();
        write_atomic(&path, |out| out.write_all(&text))?;
        Ok(found)
    }

    /// The first option that `old` has another value of.
    fn change(&self, old: &Value) -> Option<String> {
        let own = self.0.as_object()?;
        let (name, value) = own.iter().find(|(name, value)| old.get(name.as_str()) != Some(value))?;
        Some(format!("its {name} is {}, not {value}", old.get(name.as_str()).unwrap_or(&Value::Null)))
    }

    /// The file with the values of all variations.
    pub fn with_values(&self, outcomes: &[Outcome]) -> Vec<u8> {
        let mut all = self.0.clone();
        all["variations"] = outcomes.iter().map(Outcome::to_json).collect();
        serde_json::to_vec_pretty(&all).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_study_is_not_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let record = |steps: usize| Record(json!({"steps": steps, "seed": 0}));
        assert_eq!(record(3).settle(folder.path(), false).unwrap(), Found::Same);
        std::fs::write(folder.path().join(FILE), record(3).with_values(&[])).unwrap();
        assert_eq!(record(3).settle(folder.path(), false).unwrap(), Found::Same);
        let refused = record(4).settle(folder.path(), false).unwrap_err().to_string();
        assert!(refused.contains("its steps is 3, not 4"), "{refused}");
        assert_eq!(record(4).settle(folder.path(), true).unwrap(), Found::Another);
        assert_eq!(record(4).settle(folder.path(), false).unwrap(), Found::Same);
    }
}
