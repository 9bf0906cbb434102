//! Kernel cache of a device: every kernel that was asked for, by its text, and how far it is.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::crew::Queue;
use super::{Access, Kernel};
use crate::base::lock;

/// Compiled kernel.
pub struct Pipeline {
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) layout: wgpu::BindGroupLayout,
    /// Whether machine code exists.
    ready: AtomicBool,
}

impl Pipeline {
    /// A pipeline that can run at once or, with `ready` false, compiles at its first dispatch.
    pub(super) fn new(pipeline: wgpu::ComputePipeline, layout: wgpu::BindGroupLayout, ready: bool) -> Pipeline {
        Pipeline { pipeline, layout, ready: AtomicBool::new(ready) }
    }

    /// Returns whether the kernel can run without compiling first. True since its creation or, on drivers that compile
    /// late, since its first dispatch.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Relaxed)
    }

    /// Marks the kernel as dispatched.
    pub(crate) fn set_ready(&self) {
        self.ready.store(true, Relaxed);
    }
}

/// Text and bindings of a pipeline.
#[derive(Clone)]
pub(super) struct Source {
    pub name: &'static str,
    pub text: Arc<str>,
    pub trusted: bool,
    pub slots: Vec<Access>,
}

/// How far a kernel is.
pub(super) enum State {
    /// Not being compiled. A kernel that failed to compile is compiled again when it is next requested.
    Wanted,
    /// Being compiled by a thread.
    Building,
    Built(Arc<Pipeline>),
}

impl State {
    pub fn is_ready(&self) -> bool {
        matches!(self, State::Built(pipeline) if pipeline.is_ready())
    }
}

/// All requested kernels, by number.
#[derive(Default)]
struct Known {
    /// By [`Kernel::key`], which needs no rendering.
    by_key: HashMap<String, usize>,
    /// Kernels of several keys are rendered to the same where a template has parts that use some of its values.
    by_text: HashMap<Arc<str>, usize>,
    entries: Vec<(Source, State)>,
}

/// Kernel cache of a device, shared by all handles.
#[derive(Default)]
pub(super) struct Kernels {
    known: Mutex<Known>,
    changed: Condvar,
}

/// Next action for a set of kernels.
#[cfg_attr(target_arch = "wasm32", allow(dead_code, reason = "a page has one thread"))]
pub(super) enum Next {
    /// This kernel is the caller's to compile.
    Build(usize, Source),
    /// The remaining kernels are being compiled elsewhere.
    Wait,
    Done,
}

#[cfg_attr(target_arch = "wasm32", allow(dead_code, reason = "a page has one thread"))]
impl Kernels {
    pub fn number_of(&self, key: &str) -> Option<usize> {
        lock(&self.known).by_key.get(key).copied()
    }

    pub fn number(&self, key: String, kernel: &Kernel, text: String) -> usize {
        let mut known = lock(&self.known);
        let known = &mut *known;
        let text: Arc<str> = text.into();
        let number = *known.by_text.entry(text.clone()).or_insert(known.entries.len());
        if number == known.entries.len() {
            let Kernel { template, .. } = kernel;
            let source = Source { name: template.name, text, trusted: template.trusted, slots: kernel.slots() };
            known.entries.push((source, State::Wanted));
        }
        known.by_key.insert(key, number);
        number
    }

    pub fn pipeline(&self, number: usize) -> Option<Arc<Pipeline>> {
        match lock(&self.known).entries.get(number)? {
            (_, State::Built(pipeline)) => Some(pipeline.clone()),
            _ => None,
        }
    }

    /// Bindings and pipeline of a kernel that is built.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn built(&self, number: usize) -> Option<(Vec<Access>, Arc<Pipeline>)> {
        match lock(&self.known).entries.get(number)? {
            (source, State::Built(pipeline)) => Some((source.slots.clone(), pipeline.clone())),
            _ => None,
        }
    }

    #[cfg(target_arch = "wasm32")]
    pub fn source(&self, number: usize) -> Option<Source> {
        lock(&self.known).entries.get(number).map(|(source, _)| source.clone())
    }

    /// Claims the first of `numbers` that is not being compiled; it becomes the caller's to compile.
    pub fn claim(&self, numbers: &[usize]) -> Next {
        let mut known = lock(&self.known);
        let mut waits = false;
        for &number in numbers {
            match known.entries.get_mut(number) {
                Some((source, state @ State::Wanted)) => {
                    *state = State::Building;
                    return Next::Build(number, source.clone());
                }
                Some((_, State::Building)) => waits = true,
                _ => {}
            }
        }
        if waits { Next::Wait } else { Next::Done }
    }

    pub fn settle(&self, number: usize, state: State) {
        if let Some(entry) = lock(&self.known).entries.get_mut(number) {
            entry.1 = state;
        }
        self.changed.notify_all();
    }

    /// Waits for a change, unless none of `numbers` is being compiled.
    pub fn wait(&self, numbers: &[usize]) {
        let known = lock(&self.known);
        let is_building = |n: &usize| matches!(known.entries.get(*n), Some((_, State::Building)));
        if numbers.iter().any(is_building) {
            drop(self.changed.wait(known).unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Filters `numbers` by state, without duplicates.
    pub fn of_state(&self, numbers: &[usize], is: impl Fn(&State) -> bool) -> Vec<usize> {
        let known = lock(&self.known);
        let mut seen = BTreeSet::new();
        let is = |n: &usize| known.entries.get(*n).is_some_and(|(_, state)| is(state));
        numbers.iter().copied().filter(|n| is(n) && seen.insert(*n)).collect()
    }
}

/// Kernels of a job that were not ready when it began.
#[derive(Default)]
pub(crate) struct Needed {
    pub(super) numbers: Mutex<BTreeSet<usize>>,
    #[cfg_attr(target_arch = "wasm32", allow(dead_code, reason = "a page has one thread"))]
    pub(super) queue: Option<Arc<Queue>>,
}
