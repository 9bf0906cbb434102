//! Images that a comparison is over: like is compared with like, also where an evaluation was interrupted.

use std::collections::BTreeSet;

use super::earlier::counted;
use super::make::{Role, Shown};

/// Role, prompt and seed: what an image has in common with its twins of other models.
pub(super) type Key = (Role, usize, u64);

/// Key of an image.
pub(super) fn key(shown: &Shown) -> Key {
    (shown.role, shown.prompt, shown.seed)
}

/// Images over which models are compared.
pub(super) struct Compared {
    /// Keys that every model has that is not left out.
    pub keys: BTreeSet<Key>,
    /// For each model, whether it is left out.
    pub left_out: Vec<bool>,
}

impl Compared {
    /// Compares models by the images that all of them have, the base model's first: all of its images were made. A model
    /// with less than half of them is left out where another can be compared, because it would leave little of that one.
    pub fn new(sets: &[BTreeSet<Key>]) -> Compared {
        let all = sets.first().cloned().unwrap_or_default();
        let few = |set: &BTreeSet<Key>| 2 * set.len() < all.len();
        let others = sets.iter().skip(1).any(|set| !few(set));
        let left_out: Vec<bool> = sets.iter().map(|set| others && few(set)).collect();
        let counted = sets.iter().zip(&left_out).filter(|(_, left_out)| !**left_out);
        let keys = counted.fold(all.clone(), |keys, (set, _)| &keys & set);
        Compared { keys, left_out }
    }
}

/// Says over which images the figures of an interrupted evaluation are: `models` are the names of all with the number of
/// their images, the base model's first.
pub(super) fn interruption(compared: &Compared, models: &[(&str, usize)], total: usize) -> String {
    let common = compared.keys.len();
    let over = format!(
        "the evaluation was interrupted: figures are over {common} of {total} images of each model that is compared"
    );
    let left_out = |i: usize| compared.left_out.get(i).copied().unwrap_or(true);
    let (mut few, mut none) = (Vec::new(), Vec::new());
    for (i, (name, made)) in models.iter().enumerate().filter(|(i, _)| left_out(*i)) {
        match compared.left_out.get(i) {
            Some(_) => few.push(format!("{name} ({})", counted(*made))),
            None => none.push(*name),
        }
    }
    let few = (!few.is_empty()).then(|| format!("; left out of them: {}", few.join(", ")));
    let none = (!none.is_empty()).then(|| format!("; without an image: {}", none.join(", ")));
    [Some(over), few, none].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(count: u64) -> BTreeSet<Key> {
        (0..count).map(|seed| (Role::Subject, 0, seed)).collect()
    }

    #[test]
    fn a_comparison_is_over_what_all_have() {
        let counted = |sets: &[u64]| {
            let compared = Compared::new(&sets.iter().map(|count| keys(*count)).collect::<Vec<_>>());
            (compared.keys.len(), compared.left_out)
        };
        assert_eq!(counted(&[12, 12, 12]), (12, vec![false, false, false]));
        assert_eq!(counted(&[12, 12, 6]), (6, vec![false, false, false]));
        // Few images would leave little of a model that has all.
        assert_eq!(counted(&[12, 12, 5]), (12, vec![false, false, true]));
        assert_eq!(counted(&[12, 1]), (1, vec![false, false]));
    }

    #[test]
    fn an_interruption_names_who_is_left_out() {
        let compared = Compared::new(&[keys(12), keys(12), keys(2)]);
        let said = interruption(&compared, &[("base model", 12), ("a", 12), ("b", 2), ("c", 0)], 12);
        assert!(
            said.contains("12 of 12 images of each model that is compared; left out of them: b (2 images); without"),
            "{said}"
        );
        assert!(said.ends_with("without an image: c"), "{said}");
    }
}
