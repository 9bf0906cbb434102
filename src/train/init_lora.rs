//! The LoRA that a training begins with (`--init-lora`), held against what the job trains before anything runs: all of it is
//! in the result, or is named.

use std::collections::BTreeMap;

use crate::error::{Error, Message, Result, message, option};
use crate::event::{Event, Listener};
use crate::io::{LoraFile, LoraModule, ModelModules, ModuleKey, PartId};
use crate::nn::{LoraSpec, Param, Targets, weights};
use crate::pipeline::Model;

use super::TrainOptions;
use super::plan::initial_factor;

/// A LoRA to begin with.
pub(super) struct InitLora {
    file: LoraFile,
    /// Layers that no option trains: they go into the result as they are.
    pub carried: BTreeMap<ModuleKey, LoraModule>,
    /// What the job's factors count.
    scale: f32,
}

/// What becomes of a layer of the file.
enum Fate {
    Trained,
    /// Trained only with this option, which has this value.
    Needs((&'static str, &'static str)),
    Carried,
}

impl TrainOptions {
    /// Whether an adapter of this job lies beside `layer`.
    fn trains(&self, spec: &LoraSpec, layer: &ModuleKey) -> bool {
        spec.covers(&layer.to_string()) && (layer.part == PartId::UNET || self.text_encoder)
    }

    fn fate(&self, spec: &LoraSpec, layer: &ModuleKey) -> Fate {
        let all = || Targets::All.covers(&layer.to_string());
        match layer.part {
            _ if self.trains(spec, layer) => Fate::Trained,
            PartId::UNET if all() => Fate::Needs(("targets", " all")),
            part if part.is_text_encoder() && all() => Fate::Needs(("text_encoder", "")),
            _ => Fate::Carried,
        }
    }

    /// Opens the job's `--init-lora`; says which of its layers are not trained and which of the job's it does not have.
    ///
    /// # Errors
    /// [`Error::File`] for a file that is no LoRA of this model, that holds layers which other options would train, or ranks
    /// above the job's: with the options to give.
    pub(super) fn open_init_lora(&self, model: &Model, listener: Listener<'_>) -> Result<Option<InitLora>> {
        let (Some(path), Some(spec)) = (&self.init_lora, self.lora()) else { return Ok(None) };
        let modules = model.checkpoint.modules();
        let mut file = LoraFile::open(path, Some(&modules))?;
        file.only_low_rank("which training cannot go on from: give a LoRA or LoCon")?;
        let report = file.match_report(&modules);
        report.check()?;
        if let Some(listed) = report.listed_unmatched() {
            let count = report.unmatched.len();
            let left_out = format!(": {count} keys match nothing in the model and are left out: {listed}");
            listener(Event::Warning(crate::error::path(path) + left_out));
        }
        file.modules.retain(|layer, _| modules.weight(layer).is_some());
        self.refuse_untrained(&spec, &file)?;
        let untrained = |layer: &ModuleKey| !self.trains(&spec, layer);
        let carried: BTreeMap<_, _>;
        (carried, file.modules) = file.modules.into_iter().partition(|(layer, _)| untrained(layer));
        if let Some(first) = carried.keys().next() {
            let count = carried.len();
            listener(Event::Note(
                crate::error::path(path)
                    + format!(
                        ": {count} layers that no option trains go into the result as they are, without a part in the training, for \
                 example {first}"
                    ),
            ));
        }
        let largest = file.modules.values().map(LoraModule::rank).max().unwrap_or(0);
        if largest > self.rank {
            let remedy = message![": give ", option("rank"), format!(" {largest}")];
            return Err(Error::file(path, message![format!("has layers of rank {largest}"), remedy]));
        }
        for note in self.notes(&spec, &file, &modules) {
            listener(Event::Note(message![crate::error::path(path), ": ", note]));
        }
        Ok(Some(InitLora { file, carried, scale: spec.scale() as f32 }))
    }

    /// Refuses layers that would be lost although an option keeps them.
    fn refuse_untrained(&self, spec: &LoraSpec, file: &LoraFile) -> Result<()> {
        let needs = |(layer, option)| match option {
            Fate::Needs(option) => Some((layer, option)),
            _ => None,
        };
        let lost: Vec<_> = file.modules.keys().map(|layer| (layer, self.fate(spec, layer))).filter_map(needs).collect();
        let Some((first, _)) = lost.first() else { return Ok(()) };
        let options = [("targets", " all"), ("text_encoder", "")];
        let given = options.into_iter().filter(|option| lost.iter().any(|(_, needed)| needed == option));
        let given = given.map(|(name, value)| option(name) + value);
        let count = lost.len();
        let layers = if count == 1 { "layer" } else { "layers" };
        let message =
            format!("holds {count} {layers} that would not be trained and would be lost, for example {first}: give ");
        Err(Error::file(&file.name, message![message, Message::join(given, " and ")]))
    }

    /// What else to know of `file`.
    fn notes(&self, spec: &LoraSpec, file: &LoraFile, modules: &ModelModules) -> Vec<Message> {
        let mut notes = Vec::new();
        let keys = |part: PartId| modules.of(part).map(move |(path, _)| ModuleKey { part, path: path.clone() });
        let all: Vec<ModuleKey> = PartId::ADAPTED.into_iter().flat_map(keys).collect();
        let new = all.iter().filter(|layer| self.trains(spec, layer) && !file.modules.contains_key(layer));
        let (new, first) = (new.clone().count(), new.clone().next());
        if let Some(first) = first {
            notes.push(format!("{new} layers are not in it and begin at zero, for example {first}").into());
        }
        let padded = file.modules.values().filter(|module| module.rank() < self.rank).count();
        if padded > 0 {
            let grown = message![option("rank"), format!(" {}, which changes nothing yet", self.rank)];
            notes.push(message![format!("{padded} layers of lower rank grow to "), grown]);
        }
        if spec.scale() != 1.0 && file.modules.values().any(|module| module.alpha.is_none()) {
            let factors = format!("has no alpha: its factors count {} as ", spec.scale());
            notes.push(message![factors, option("alpha"), " says"]);
        }
        notes
    }
}

impl InitLora {
    /// The starting values of `param`, factor `which` of `layer` and the `index`-th of all, as stored; `None` where the file
    /// has no such layer.
    pub fn values(
        &self,
        param: &Param,
        (layer, which): (&ModuleKey, &str),
        index: usize,
        seed: u64,
    ) -> Result<Option<Vec<f32>>> {
        let Some(module) = self.file.modules.get(layer) else { return Ok(None) };
        let (shape, up) = (&param.sources[0].shape, which == "up");
        let values: Vec<f32> = if up {
            // What a file with an alpha adds is what training begins with, whatever alpha the job has; without one the factors
            // are the job's to scale, as PEFT has it.
            let scale = module.alpha.map_or(1.0, |_| module.scale() / self.scale);
            let (rank, wanted) = (module.rank(), shape[1]);
            let rows = module.up.data.chunks(rank);
            rows.flat_map(|row| (0..wanted).map(move |i| row.get(i).map_or(0.0, |x| x * scale))).collect()
        } else {
            // Rows that the file does not have meet columns of zeros: they add nothing, and can be trained.
            let mut values = module.down.data.clone();
            let new = initial_factor(param, index, seed);
            values.extend(new.get(values.len()..).unwrap_or_default());
            values
        };
        let tensor = weights::HostTensor { shape: shape.clone(), values: values.into() };
        Ok(Some(bytemuck::pod_collect_to_vec(&weights::pack(param, &[tensor])?)))
    }
}
