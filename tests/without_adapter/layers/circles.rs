//! Circles among files.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Every file's shortest circles: of each import the shortest way back, each circle once, its first file the least.
pub fn circles<'a>(edges: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> BTreeSet<Vec<&'a str>> {
    let mut found = BTreeSet::new();
    for (from, targets) in edges {
        for target in targets {
            if let Some(mut circle) = way(edges, target, from) {
                let least = (0..circle.len()).min_by_key(|i| circle[*i]).unwrap_or(0);
                circle.rotate_left(least);
                found.insert(circle);
            }
        }
    }
    found
}

/// The files on a shortest way from `from` to `to`, both included.
fn way<'a>(edges: &BTreeMap<&'a str, BTreeSet<&'a str>>, from: &'a str, to: &'a str) -> Option<Vec<&'a str>> {
    let mut before: BTreeMap<&str, &str> = BTreeMap::from([(from, from)]);
    let mut queue = VecDeque::from([from]);
    while let Some(at) = queue.pop_front() {
        if at == to {
            let mut files = vec![to];
            while files[files.len() - 1] != from {
                files.push(before[files[files.len() - 1]]);
            }
            files.reverse();
            return Some(files);
        }
        for next in edges.get(at).into_iter().flatten() {
            if !before.contains_key(next) {
                before.insert(next, at);
                queue.push_back(next);
            }
        }
    }
    None
}
