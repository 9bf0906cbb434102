//! A plan on a device: pre-built bind groups, one packed uniform buffer.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::pieces::{Step, costs};
use crate::base::{DType, block4, block8};
use crate::error::{Error, Result};
use crate::gpu::{Buffer, Gpu, Pool, Store, StoredBuffer};
use crate::graph::plan::{GUARD_BYTES, Home, Plan};
use crate::graph::{Binding, Slot, Source, Tensor};

/// Plan on a device: compiled, bound, ready to run many times.
pub struct Session {
    pub(super) gpu: Gpu,
    pub(super) plan: Arc<Plan>,
    pub(super) steps: Vec<Step>,
    inputs: Buffer,
    pub(super) uniforms: Option<Buffer>,
    homes: HashMap<Slot, (Buffer, u64)>,
    /// Step whose uniform block describes a slice, counted from 1; 0 if none does.
    pub(super) sliced: AtomicUsize,
}

impl Session {
    /// Compiles and binds `plan`. Its stored tensors must be in `store`, its arena reserved in `pool`.
    ///
    /// # Errors
    /// [`Error::Device`] if a stored tensor is missing or too small, a kernel does not compile, or the device fails.
    pub async fn new(gpu: &Gpu, plan: impl Into<Arc<Plan>>, pool: &mut Pool, store: &Store) -> Result<Session> {
        let plan = plan.into();
        pool.reserve(gpu, &plan.arena)?;
        let inputs = crate::gpu::storage_buffer(gpu, "inputs", plan.input_bytes);
        let homes = homes(&plan, pool, store, &inputs)?;
        let (steps, sliced) = (Vec::new(), AtomicUsize::new(0));
        let mut session = Session { gpu: gpu.clone(), plan, steps, inputs, uniforms: None, homes, sliced };
        session.bind().await?;
        gpu.check()?;
        Ok(session)
    }

    async fn bind(&mut self) -> Result<()> {
        let kernels: Vec<_> = self.plan.dispatches.iter().map(|d| &d.kernel).collect();
        let pipelines = self.gpu.compile(&kernels).await?;
        let stride = self.plan.caps.uniform_alignment;
        let mut packed = Vec::with_capacity(self.plan.uniform_bytes as usize);
        let mut ranges = Vec::with_capacity(pipelines.len());
        for d in &self.plan.dispatches {
            let bytes = d.kernel.uniform_bytes();
            ranges.push((packed.len() as u64, bytes.len() as u64));
            packed.extend(bytes);
            packed.resize((packed.len() as u64).next_multiple_of(stride) as usize, 0);
        }
        let uniforms = self.gpu.buffer("uniforms", packed.len() as u64, wgpu::BufferUsages::UNIFORM);
        self.gpu.queue.write_buffer(&uniforms, 0, &packed);
        let costs = costs(&self.plan);
        for (((d, pipeline), (offset, bytes)), cost) in
            self.plan.dispatches.iter().zip(pipelines).zip(ranges).zip(costs)
        {
            let uniform = wgpu::BufferBinding { buffer: &uniforms, offset, size: std::num::NonZeroU64::new(bytes) };
            let mut entries =
                vec![wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(uniform) }];
            for (i, b) in d.bindings.iter().enumerate() {
                entries.push(wgpu::BindGroupEntry { binding: i as u32 + 1, resource: self.resource(b)? });
            }
            let descriptor = wgpu::BindGroupDescriptor {
                label: Some(d.kernel.template.name),
                layout: &pipeline.layout,
                entries: &entries,
            };
            let bind_group = self.gpu.device.create_bind_group(&descriptor);
            self.steps.push(Step {
                pipeline,
                bind_group,
                grid: d.grid,
                cost,
                uniform: offset,
                can_be_cut: d.kernel.can_be_cut(),
            });
            self.gpu.breathe().await;
        }
        self.uniforms = Some(uniforms);
        // A host's steps are for work.
        if self.gpu.compiles_late() && self.gpu.turn.is_none() { self.warm_up().await } else { Ok(()) }
    }

    /// Dispatches zero workgroups of each kernel that has not run. The driver then compiles one after another, visible
    /// to the caller that counts them, and submits with work take only the work's time.
    async fn warm_up(&self) -> Result<()> {
        for (i, step) in self.steps.iter().enumerate() {
            if step.pipeline.is_ready() {
                continue;
            }
            self.gpu.queue.submit([self.encode([(i, [0, 0, 0])])]);
            self.gpu.wait().await?;
            step.pipeline.set_ready();
            self.gpu.look_up().await;
        }
        Ok(())
    }

    fn resource(&self, b: &Binding) -> Result<wgpu::BindingResource<'_>> {
        let (buffer, offset) = self.home(b.slot)?;
        let end = b.offset + b.bytes;
        let more = if self.plan.reaching && end == self.slot_bytes(b.slot) { GUARD_BYTES } else { 0 };
        let size = std::num::NonZeroU64::new(b.bytes + more);
        Ok(wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset: offset + b.offset, size }))
    }

    pub(super) fn home(&self, slot: Slot) -> Result<(&Buffer, u64)> {
        let home = self.homes.get(&slot);
        home.map(|(b, o)| (b, *o))
            .ok_or_else(|| Error::Internal(format!("{} has no memory", self.plan.slot_name(slot))))
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Writes the values of an input.
    ///
    /// # Errors
    /// [`Error::Op`] if `input` is not an f32 input of this size.
    pub fn write(&self, input: Tensor, values: &[f32]) -> Result<()> {
        self.write_bytes(input, bytemuck::cast_slice(values), DType::F32)
    }

    /// Writes the token ids of an input.
    ///
    /// # Errors
    /// [`Error::Op`] if `input` is not a u32 input of this size.
    pub fn write_ids(&self, input: Tensor, ids: &[u32]) -> Result<()> {
        self.write_bytes(input, bytemuck::cast_slice(ids), DType::U32)
    }

    fn write_bytes(&self, input: Tensor, bytes: &[u8], dtype: DType) -> Result<()> {
        let info = &self.plan.tensors[input.0 as usize];
        if info.source != Source::Input || info.dtype != dtype || bytes.len() != info.shape.elements() * 4 {
            let message =
                format!("{:?} {} cannot be written with {} bytes of {dtype:?}", info.dtype, info.shape, bytes.len());
            return Err(Error::op("write", format!("{}: {message}", info.name)));
        }
        // An input that no live node reads has no memory.
        if let Some((_, offset)) = self.homes.get(&Slot::Tensor(input)) {
            self.gpu.queue.write_buffer(&self.inputs, *offset, bytes);
        }
        Ok(())
    }

    /// Encodes dispatches, each with its workgroups.
    pub(super) fn encode(&self, dispatches: impl IntoIterator<Item = (usize, [u32; 3])>) -> wgpu::CommandBuffer {
        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            for (step, [x, y, z]) in dispatches {
                pass.set_pipeline(&self.steps[step].pipeline.pipeline);
                pass.set_bind_group(0, &self.steps[step].bind_group, &[]);
                pass.dispatch_workgroups(x, y, z);
            }
        }
        encoder.finish()
    }

    /// Memory of a tensor that is an output, an input or stored.
    pub(crate) fn place(&self, t: Tensor) -> Result<StoredBuffer> {
        let root = self.plan.roots[t.0 as usize];
        let (buffer, offset) = self.home(Slot::Tensor(root))?;
        let info = &self.plan.tensors[t.0 as usize];
        let bytes = info.dtype.value_bytes(info.shape.elements());
        Ok(StoredBuffer { buffer: buffer.clone(), offset, bytes })
    }

    /// Reads a tensor that is an output, an input or stored.
    ///
    /// # Errors
    /// [`Error::Device`] if it has no memory after the run, or the device fails.
    pub async fn read(&self, t: Tensor) -> Result<Vec<f32>> {
        let info = &self.plan.tensors[t.0 as usize];
        let at = self.place(t)?;
        let bytes = self.gpu.read(&at.buffer, at.offset, at.bytes).await?;
        Ok(decode(&bytes, info.dtype, info.shape.elements()))
    }
}

fn decode(bytes: &[u8], dtype: DType, elements: usize) -> Vec<f32> {
    match dtype {
        DType::F32 => bytemuck::pod_collect_to_vec::<u8, f32>(&bytes[..elements * 4]),
        DType::Q8 => block8::dequantize(bytes).into_iter().take(elements).collect(),
        DType::Q4 => block4::dequantize(bytes).into_iter().take(elements).collect(),
        DType::U32 => {
            bytemuck::pod_collect_to_vec::<u8, u32>(&bytes[..elements * 4]).iter().map(|&x| x as f32).collect()
        }
        DType::F16 => {
            let halves = bytemuck::pod_collect_to_vec::<u8, half::f16>(&bytes[..elements * 2]);
            halves.iter().map(|x| x.to_f32()).collect()
        }
    }
}

fn homes(plan: &Plan, pool: &Pool, store: &Store, inputs: &Buffer) -> Result<HashMap<Slot, (Buffer, u64)>> {
    let mut homes = HashMap::with_capacity(plan.homes.len());
    for (&slot, home) in &plan.homes {
        let found = match home {
            Home::Arena(place) => {
                let chunk = pool.chunk(place.chunk);
                (
                    chunk.ok_or_else(|| Error::Internal("the arena is smaller than the plan".into()))?.clone(),
                    place.offset,
                )
            }
            Home::Input(offset) => (inputs.clone(), *offset),
            Home::Stored(key) => {
                let entry = store.entry(key)?;
                let needed = plan.stored.get(key).copied().unwrap_or(0);
                if entry.bytes < needed {
                    return Err(Error::Internal(format!("{key} holds {} bytes, the plan needs {needed}", entry.bytes)));
                }
                (entry.buffer.clone(), entry.offset)
            }
        };
        homes.insert(slot, found);
    }
    Ok(homes)
}
