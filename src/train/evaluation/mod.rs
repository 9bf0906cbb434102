//! Training that watches itself: between optimizer steps it measures whether the subject is learned and how far the model
//! has drifted, keeps the best checkpoint, and may stop when nothing gets better. It draws from random streams of its own
//! and only reads what is trained, so that a run with evaluations ends in the same bytes as one without.

mod evaluator;
mod history;
mod likeness;
mod plans;
mod predictions;
mod schedule;
mod set;

pub(super) use evaluator::Evaluator;
pub use history::History;
pub(super) use plans::EvaluationPlans;
pub(super) use set::{EvaluationPhotos, EvaluationSet};
