//! Replay of a plan: pre-built bind groups, one packed uniform buffer, submits of bounded time.

mod check;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use web_time::Instant;

use super::plan::{GUARD_BYTES, Home};
use super::{Binding, Plan, Slot, Source, Tensor};
use crate::base::{DType, block4, block8};
use crate::error::{Error, Result};
use crate::gpu::{Allowance, Buffer, Flight, Gpu, Pipeline, Pool, Store, StoredBuffer};

pub use check::Mismatch;

struct Step {
    pipeline: Arc<Pipeline>,
    bind_group: wgpu::BindGroup,
    grid: [u32; 3],
    cost: f64,
    /// Offset of its uniform block, which begins with the first workgroup that runs.
    uniform: u64,
    /// Whether some of its workgroups may run alone.
    can_be_cut: bool,
}

impl Step {
    fn workgroups(&self) -> u32 {
        self.grid.iter().product()
    }
}

/// Work of one submit.
enum Piece {
    /// Whole dispatches.
    Steps(Range<usize>),
    /// Some workgroups of one dispatch.
    Slice { step: usize, workgroups: Range<u32> },
}

/// Plan on a device: compiled, bound, ready to run many times.
pub struct Session {
    gpu: Gpu,
    plan: Arc<Plan>,
    steps: Vec<Step>,
    inputs: Buffer,
    uniforms: Option<Buffer>,
    homes: HashMap<Slot, (Buffer, u64)>,
    /// Step whose uniform block describes a slice, counted from 1; 0 if none does.
    sliced: AtomicUsize,
}

/// Time of one node, run alone.
#[derive(Clone, Copy, Debug)]
pub struct NodeTime {
    /// Its op's name.
    pub op: &'static str,
    /// Seconds of all its dispatches.
    pub seconds: f64,
    /// Its FLOPs.
    pub flops: u64,
    /// Rows of its first result.
    pub rows: usize,
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

    fn home(&self, slot: Slot) -> Result<(&Buffer, u64)> {
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

    /// Runs the plan, in submits of bounded time. A dispatch that takes too long runs in slices of its workgroups.
    /// Returns once everything is submitted and at most the last submit is in flight.
    ///
    /// # Errors
    /// [`Error::Device`] if the device fails.
    pub async fn run(&self) -> Result<()> {
        // A run that was given up may have left a slice behind.
        self.tell_slice(None);
        let mut flight = Flight::new(&self.gpu);
        let (mut next, mut first) = (0, 0);
        while let Some(step) = self.steps.get(next) {
            let rest = step.cost * f64::from(step.workgroups() - first) / f64::from(step.workgroups());
            let (piece, cost) = self.take(next, first, flight.next_allowance(rest, step.can_be_cut).await);
            match piece {
                Piece::Steps(steps) => {
                    let whole = steps.clone().map(|step| (step, self.steps[step].grid));
                    flight.submit(self.encode(whole), steps.len(), cost).await?;
                    next = steps.end;
                }
                Piece::Slice { step, workgroups } => {
                    self.tell_slice(Some((step, workgroups.start)));
                    flight.submit(self.encode([(step, [workgroups.len() as u32, 1, 1])]), 1, cost).await?;
                    first = workgroups.end;
                    if first == self.steps[step].workgroups() {
                        self.tell_slice(None);
                        (next, first) = (step + 1, 0);
                    }
                }
            }
        }
        flight.settle().await?;
        self.steps.iter().for_each(|step| step.pipeline.set_ready());
        Ok(())
    }

    /// Sets what the next submits run: `slice`, a step from a workgroup on, or every step whole.
    fn tell_slice(&self, slice: Option<(usize, u32)>) {
        let Some(uniforms) = &self.uniforms else { return };
        let told = self.sliced.swap(slice.map_or(0, |(step, _)| step + 1), Ordering::Relaxed);
        let restored = told.checked_sub(1).filter(|&told| slice.is_none_or(|(step, _)| step != told));
        for (step, first) in restored.map(|step| (step, 0)).into_iter().chain(slice) {
            self.gpu.queue.write_buffer(uniforms, self.steps[step].uniform, &first.to_le_bytes());
        }
    }

    /// Runs every dispatch alone, waits for it, and returns the time of each node.
    ///
    /// # Errors
    /// [`Error::Device`] if the device fails.
    pub async fn profile(&self) -> Result<Vec<NodeTime>> {
        let mut nodes: Vec<(usize, &'static str, f64)> = Vec::new();
        for (i, d) in self.plan.dispatches.iter().enumerate() {
            let start = Instant::now();
            self.gpu.queue.submit([self.encode([(i, self.steps[i].grid)])]);
            self.gpu.wait().await?;
            let seconds = start.elapsed().as_secs_f64();
            match nodes.last_mut().filter(|(node, ..)| *node == d.node) {
                Some((_, _, total)) => *total += seconds,
                None => nodes.push((d.node, self.plan.nodes[d.node].op.name(), seconds)),
            }
        }
        let time = |(node, op, seconds): (usize, &'static str, f64)| {
            let output = self.plan.nodes[node].outputs.first();
            let rows = output.map_or(0, |t| self.plan.tensors[t.0 as usize].shape.rows());
            NodeTime { op, seconds, flops: self.plan.flops.get(&node).copied().unwrap_or(0), rows }
        };
        Ok(nodes.into_iter().map(time).collect())
    }

    /// Takes what is `allowed` of the steps from `start` on, of which `first` workgroups have run, with its cost: some
    /// workgroups of one step if it takes too long, else at least one step.
    fn take(&self, start: usize, first: u32, allowed: Allowance) -> (Piece, f64) {
        let step = &self.steps[start];
        let all = step.workgroups();
        if first > 0 || (step.can_be_cut && step.cost > allowed.most) {
            let one = step.cost / f64::from(all);
            // A slice has one dimension: its index must not run beyond it.
            let limit = self.plan.caps.max_workgroups_per_dimension;
            let count = ((allowed.most.min(allowed.cost) / one) as u32).clamp(1, limit).min(all - first);
            return (Piece::Slice { step: start, workgroups: first..first + count }, one * f64::from(count));
        }
        let (mut end, mut cost) = (start, 0.0);
        while let Some(step) = self.steps.get(end).filter(|_| end - start < allowed.dispatches) {
            let long = step.can_be_cut && step.cost > allowed.most;
            if end > start && (long || cost + step.cost > allowed.cost) {
                break;
            }
            cost += step.cost;
            end += 1;
        }
        (Piece::Steps(start..end), cost)
    }

    /// Encodes dispatches, each with its workgroups.
    fn encode(&self, dispatches: impl IntoIterator<Item = (usize, [u32; 3])>) -> wgpu::CommandBuffer {
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

/// Estimates the cost of each dispatch: its share of its node's FLOPs, by weight, plus the bytes that it touches.
fn costs(plan: &Plan) -> Vec<f64> {
    let mut weights: HashMap<usize, f64> = HashMap::new();
    for d in &plan.dispatches {
        *weights.entry(d.node).or_default() += d.weight as f64;
    }
    let cost = |d: &super::Dispatch| {
        let share = d.weight as f64 / weights.get(&d.node).copied().unwrap_or(1.0).max(1.0);
        let flops = plan.flops.get(&d.node).copied().unwrap_or(0) as f64 * share;
        flops + d.bindings.iter().map(|b| b.bytes as f64).sum::<f64>() * 4.0 + 1e4
    };
    plan.dispatches.iter().map(cost).collect()
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;

    use super::*;
    use crate::gpu::{Budget, Turn, Variants};
    use crate::graph::{Graph, PlanOptions};

    const ROWS: usize = 3000;

    /// Two ops, the first of many workgroups, with what they read.
    fn session(gpu: &Gpu) -> (Session, Tensor, Tensor) {
        let mut g = Graph::new();
        let x = g.input("x", [ROWS, 64], DType::F32);
        let y = crate::ops::unary(&mut g, x, crate::ops::Activation::Gelu).unwrap();
        let z = crate::ops::add(&mut g, y, x).unwrap();
        g.output(z);
        let plan =
            Plan::new(&g, gpu.caps(), &Variants::default(), &PlanOptions { sentinels: true, ..Default::default() })
                .unwrap();
        let store = Store::new(gpu);
        let session = pollster::block_on(Session::new(gpu, plan, &mut Pool::default(), &store)).unwrap();
        (session, x, z)
    }

    /// Steps of `budget` until the run is over, or `most` of them.
    fn step(session: &Session, budget: Budget, most: usize) -> usize {
        let mut run = Box::pin(session.run());
        for steps in 1..=most {
            let host_step = session.gpu.begin_step(budget);
            let polled = run.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            drop(host_step);
            session.gpu.device.poll(wgpu::PollType::wait_indefinitely()).unwrap();
            if let Poll::Ready(done) = polled {
                done.unwrap();
                return steps;
            }
        }
        most
    }

    #[test]
    fn slices_give_what_whole_dispatches_give() {
        let own = pollster::block_on(async { Gpu::request(&Default::default()).await }).unwrap();
        let gpu = own.for_host(Turn::new());
        let (mut session, x, z) = session(&gpu);
        let values: Vec<f32> = (0..ROWS * 64).map(|i| (i as f32 * 0.37).sin() * 3.0).collect();
        session.write(x, &values).unwrap();
        let read = |session: &Session| {
            let at = session.place(z).unwrap();
            pollster::block_on(own.read(&at.buffer, at.offset, at.bytes)).unwrap()
        };
        assert_eq!(step(&session, Budget::dispatches(usize::MAX), 9), 1);
        let whole = read(&session);

        // A pace at which the first dispatch takes a second.
        own.set_pace(1.0 / session.steps[0].cost);
        let budget = Budget::time(Duration::from_millis(20));
        let allowance = |most| Allowance { cost: session.steps[0].cost, most, dispatches: 9 };
        let (piece, cost) = session.take(0, 0, allowance(session.steps[0].cost / 10.0));
        assert!(matches!(piece, Piece::Slice { step: 0, workgroups } if workgroups.start == 0 && workgroups.end > 1));
        assert!(cost <= session.steps[0].cost / 10.0);
        session.plant_sentinels().unwrap();
        assert!(read(&session) != whole);
        let steps = step(&session, budget, 5000);
        assert!(steps > 5, "{steps}");
        assert!(read(&session) == whole);

        // A run that is given up in the middle of a dispatch leaves the next one whole.
        own.set_pace(1.0 / session.steps[0].cost);
        assert_eq!(step(&session, budget, 3), 3);
        assert!(session.sliced.load(Ordering::Relaxed) > 0);
        step(&session, Budget::dispatches(usize::MAX), 9);
        assert!(read(&session) == whole);

        // What cannot be cut is not.
        session.steps[0].can_be_cut = false;
        let (piece, _) = session.take(0, 0, Allowance { cost: 1.0, most: 1.0, dispatches: 9 });
        assert!(matches!(piece, Piece::Steps(steps) if steps == (0..1)));
    }
}
