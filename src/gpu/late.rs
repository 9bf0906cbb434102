//! Machine code of drivers that make it at a kernel's first dispatch: made ahead, while the queue would be idle.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::{Access, Gpu, Pipeline, Watch};
use crate::base::lock;

/// Bytes of a buffer in place of an operand: no kernel's declaration needs more.
const OPERAND_BYTES: u64 = 256;
/// Bytes of a buffer in place of a uniform block.
const UNIFORM_BYTES: u64 = 4096;
/// Longest wait for the queue, so that a run that its host has left does not hold up a thread.
const PATIENCE: Duration = Duration::from_secs(1);

/// Runs of plans on a device's queue. Kernels are compiled ahead when there are none: a run's submits would wait, and the
/// device would seem slow.
#[derive(Default)]
pub(super) struct Runs {
    /// Runs under way, and kernels being compiled on the queue.
    state: Mutex<(usize, usize)>,
    ended: Condvar,
}

/// A run, until it is dropped.
pub(super) struct Running<'g>(&'g Runs);

impl Runs {
    pub fn begin(&self) -> Running<'_> {
        lock(&self.state).0 += 1;
        Running(self)
    }

    /// Returns whether a kernel is being compiled on the queue.
    pub fn compiling(&self) -> bool {
        lock(&self.state).1 > 0
    }

    /// Waits until no run is under way, then does `work` on the queue.
    fn between(&self, work: impl FnOnce()) {
        let state = lock(&self.state);
        let waited = self.ended.wait_timeout_while(state, PATIENCE, |state| state.0 > 0);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.1 += 1;
        drop(state);
        work();
        lock(&self.state).1 -= 1;
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).0 -= 1;
        self.0.ended.notify_all();
    }
}

impl Gpu {
    /// Dispatches no workgroups of kernel `number`, if it is built, so that the driver compiles it, and waits. Only for a
    /// thread of our own. Errors are met again by the session that needs the kernel.
    pub(super) fn make_ready(&self, number: usize) {
        let Some((slots, pipeline)) = self.known().built(number) else { return };
        // SwiftShader makes machine code with the pipeline.
        let at_dispatch = self.compiles_late() && !self.info().name.contains("SwiftShader");
        if !at_dispatch || pipeline.is_ready() {
            return;
        }
        self.runs().between(|| {
            let mut watch = Watch::new(self);
            let index = watch.during(|| self.queue.submit([self.dispatch_nothing(&slots, &pipeline)]));
            let compiled = self.wait_here(index).is_ok() && watch.check().is_ok();
            if compiled {
                pipeline.set_ready();
            }
        });
    }

    fn dispatch_nothing(&self, slots: &[Access], pipeline: &Arc<Pipeline>) -> wgpu::CommandBuffer {
        let uniform = self.buffer("no uniforms", UNIFORM_BYTES, wgpu::BufferUsages::UNIFORM);
        // A buffer is either written or only read in one dispatch.
        let [read, written] = [(); 2].map(|()| self.buffer("no operand", OPERAND_BYTES, wgpu::BufferUsages::STORAGE));
        let operands = slots.iter().map(|access| if *access == Access::Read { &read } else { &written });
        let buffers = std::iter::once(&uniform).chain(operands);
        let entries: Vec<_> = (0..)
            .zip(buffers)
            .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() })
            .collect();
        let descriptor =
            wgpu::BindGroupDescriptor { label: Some("no operands"), layout: &pipeline.layout, entries: &entries };
        let bind_group = self.device.create_bind_group(&descriptor);
        let mut encoder = self.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(&pipeline.pipeline);
            pass.set_bind_group(0, &bind_group, &[]);
            pass.dispatch_workgroups(0, 0, 0);
        }
        encoder.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_compiled_between_runs() {
        let runs = Arc::new(Runs::default());
        let first = runs.begin();
        let (done, seen) = std::sync::mpsc::channel();
        let other = runs.clone();
        let thread = std::thread::spawn(move || {
            other.between(|| {
                assert!(other.compiling());
                done.send(()).unwrap();
            });
        });
        assert!(seen.recv_timeout(Duration::from_millis(100)).is_err(), "a run is under way");
        drop(first);
        seen.recv().unwrap();
        thread.join().unwrap();
        assert!(!runs.compiling());
    }

    #[test]
    fn a_run_that_does_not_end_is_not_waited_for_long() {
        let runs = Runs::default();
        let _left = runs.begin();
        let mut worked = false;
        runs.between(|| worked = true);
        assert!(worked);
    }
}
