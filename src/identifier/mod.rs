//! Choice of the word that a training gives to its subject: how rare it is, which words are near it, and how much of a
//! meaning it already has to the model.

mod candidates;
mod check;
mod identified;
mod neighbours;
mod options;
mod plans;
mod predict;
mod prior;
mod run;
mod things;

pub use candidates::WordToken;
pub(crate) use candidates::rare_words;
pub use identified::{IdentifiedWord, Identifiers, Near, Prior};
pub use options::IdentifyOptions;
pub(crate) use run::identify;
