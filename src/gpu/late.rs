//! Machine code of drivers that make it at a kernel's first dispatch: made ahead, while the queue would be idle.

use std::sync::Arc;

use super::{Access, Gpu, Pipeline, Watch};

/// Bytes of a buffer in place of an operand: no kernel's declaration needs more.
const OPERAND_BYTES: u64 = 256;
/// Bytes of a buffer in place of a uniform block.
const UNIFORM_BYTES: u64 = 4096;

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
