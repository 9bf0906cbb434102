//! Compiling a device's kernels: rendered, compiled once, on several threads where possible, and counted for the job that
//! needs them.

use std::sync::{Arc, Mutex};
use std::task::Poll;

use super::crew::Crew;
#[cfg(not(target_arch = "wasm32"))]
use super::kernels::Next;
use super::kernels::{Needed, Source, State};
use super::{Access, AdapterClass, Gpu, Kernel, Pipeline, Watch};
use crate::base::lock;
use crate::error::{Error, Result};

/// Kernel claimed by a thread. If it is dropped without a pipeline, the kernel can be claimed again.
struct Claim {
    gpu: Gpu,
    number: usize,
    built: Option<Arc<Pipeline>>,
}

impl Claim {
    fn keep(mut self, built: Pipeline) {
        #[cfg_attr(target_arch = "wasm32", allow(clippy::arc_with_non_send_sync, reason = "a page has one thread"))]
        let built = Arc::new(built);
        self.built = Some(built);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let state = self.built.take().map_or(State::Wanted, State::Built);
        self.gpu.known().settle(self.number, state);
    }
}

/// Kernels being compiled while a job does something else. Dropping it leaves alone those that were not started.
pub(crate) struct Ahead {
    /// Device handle for the job, which counts kernels.
    pub gpu: Gpu,
    _crew: Option<Crew>,
}

impl Gpu {
    /// Starts compiling `kernels`, most urgent first, and counts them together with those of the job that this one
    /// belongs to. On a device of our own this happens on other threads. On a host's device and in a browser nothing is
    /// compiled before it is needed.
    ///
    /// # Errors
    /// If the text of a kernel cannot be rendered.
    pub(crate) async fn compile_ahead(&self, kernels: impl IntoIterator<Item = &Kernel>) -> Result<Ahead> {
        let kernels: Vec<&Kernel> = kernels.into_iter().collect();
        let numbers = self.numbers(&kernels).await?;
        let unready = self.known().of_state(&numbers, |state| !state.is_ready());
        let crew = self.hire(&unready);
        if let Some(needed) = &self.needed {
            lock(&needed.numbers).extend(unready);
            return Ok(Ahead { gpu: self.clone(), _crew: crew });
        }
        let needed =
            Needed { numbers: Mutex::new(unready.into_iter().collect()), queue: crew.as_ref().map(Crew::queue) };
        Ok(Ahead { gpu: self.counting(Some(Arc::new(needed))), _crew: crew })
    }

    /// Returns how many kernels of the job are ready, and the total that were not ready when it began. `None` if the
    /// total is 0.
    pub(crate) fn compiled(&self) -> Option<(usize, usize)> {
        let numbers: Vec<usize> = lock(&self.needed.as_ref()?.numbers).iter().copied().collect();
        let done = self.known().of_state(&numbers, State::is_ready).len();
        (!numbers.is_empty()).then_some((done, numbers.len()))
    }

    /// Yields, so that whoever runs the job can look at [`Gpu::compiled`].
    pub(crate) async fn look_up(&self) {
        let mut looked = self.needed.is_none() || self.turn.is_some();
        std::future::poll_fn(|cx| {
            if std::mem::replace(&mut looked, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await
    }

    /// Returns whether the driver compiles a kernel only at its first dispatch, as some software drivers do.
    pub(crate) fn compiles_late(&self) -> bool {
        cfg!(not(target_arch = "wasm32")) && self.caps().class == AdapterClass::Cpu
    }

    /// Returns the pipelines of `kernels`; renders and compiles missing ones.
    pub(crate) async fn compile(&self, kernels: &[&Kernel]) -> Result<Vec<Arc<Pipeline>>> {
        let numbers = self.numbers(kernels).await?;
        self.build(&numbers).await?;
        self.check()?;
        let compiled = numbers.iter().zip(kernels).map(|(&number, kernel)| {
            let message = || format!("kernel {} did not compile", kernel.template.name);
            self.known().pipeline(number).ok_or_else(|| Error::Device(message()))
        });
        compiled.collect()
    }

    /// Returns the numbers of `kernels`; renders new ones.
    async fn numbers(&self, kernels: &[&Kernel]) -> Result<Vec<usize>> {
        let mut numbers = Vec::with_capacity(kernels.len());
        for kernel in kernels {
            let key = kernel.key();
            let number = match self.known().number_of(&key) {
                Some(number) => number,
                None => {
                    let number = self.known().number(key, kernel, kernel.render()?);
                    self.breathe().await;
                    number
                }
            };
            numbers.push(number);
        }
        Ok(numbers)
    }

    /// Compiles `numbers`, on other threads too if possible.
    #[cfg(not(target_arch = "wasm32"))]
    async fn build(&self, numbers: &[usize]) -> Result<()> {
        let _crew = self.hire(numbers);
        loop {
            match self.known().claim(numbers) {
                Next::Build(number, source) => self.build_one(number, &source).await?,
                Next::Wait => self.known().wait(numbers),
                Next::Done => return Ok(()),
            }
            self.breathe().await;
            self.look_up().await;
        }
    }

    /// Compiles `numbers`: on a host's device as many per step as fit, else all at once, as browsers compile beside the
    /// page. Another job may compile the same kernels; nobody waits for it.
    #[cfg(target_arch = "wasm32")]
    async fn build(&self, numbers: &[usize]) -> Result<()> {
        let mut begun = Vec::new();
        for number in self.known().of_state(numbers, |state| !matches!(state, State::Built(_))) {
            let Some(source) = self.known().source(number) else { continue };
            let building = self.build_one(number, &source);
            match self.turn {
                None => begun.push(building),
                Some(_) => {
                    building.await?;
                    self.breathe().await;
                }
            }
        }
        for building in begun {
            building.await?;
            self.look_up().await;
        }
        Ok(())
    }

    /// Starts threads that compile those of `numbers` that nobody is compiling, if there are several: the job's own
    /// threads, or others that end with the returned crew. Only on a device of our own, outside a host's steps.
    #[cfg(not(target_arch = "wasm32"))]
    fn hire(&self, numbers: &[usize]) -> Option<Crew> {
        let wanted = self.known().of_state(numbers, |state| matches!(state, State::Wanted));
        if !self.is_ours() || self.turn.is_some() || wanted.len() < 2 {
            return None;
        }
        if let Some(queue) = self.needed.as_ref().and_then(|needed| needed.queue.as_ref()) {
            queue.put_first(&wanted);
            return None;
        }
        let gpu = self.counting(None);
        Some(Crew::new(wanted, move |number| {
            if let Next::Build(number, source) = gpu.known().claim(&[number]) {
                // What is wrong is found again by who needs it, and told.
                let built = std::pin::pin!(gpu.build_one(number, &source));
                let _ = built.poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
            }
            gpu.make_ready(number);
        }))
    }

    #[cfg(target_arch = "wasm32")]
    fn hire(&self, _: &[usize]) -> Option<Crew> {
        None
    }

    /// Compiles a claimed kernel before it returns; the future stores the pipeline if it is valid.
    fn build_one(&self, number: usize, source: &Source) -> impl Future<Output = Result<()>> + use<> {
        let claim = Claim { gpu: self.clone(), number, built: None };
        let mut watch = Watch::new(self);
        let built = watch.during(|| self.pipeline(source));
        let name = source.name;
        async move {
            let built = watch.finish_with(built).await.map_err(|e| Error::Device(format!("kernel {name}: {e}")))?;
            claim.keep(built);
            Ok(())
        }
    }

    fn pipeline(&self, source: &Source) -> Pipeline {
        let label = source.name;
        let wgsl = wgpu::ShaderSource::Wgsl((&*source.text).into());
        let descriptor = wgpu::ShaderModuleDescriptor { label: Some(label), source: wgsl };
        let checks = if self.bounds_checks || !source.trusted {
            wgpu::ShaderRuntimeChecks::checked()
        } else {
            wgpu::ShaderRuntimeChecks::unchecked()
        };
        // SAFETY: every kernel of this crate keeps its indices within its bindings and its loops finite; the op tests run
        // each one between sentinel words, and as CONTRIBUTING says with the checks on, and with every access held against
        // its binding. Others are not trusted.
        let module = unsafe { self.device.create_shader_module_trusted(descriptor, checks) };
        let buffer = |binding: u32, ty: wgpu::BufferBindingType| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
            count: None,
        };
        let mut entries = vec![buffer(0, wgpu::BufferBindingType::Uniform)];
        entries
            .extend((source.slots.iter().enumerate()).map(|(i, a)| {
                buffer(i as u32 + 1, wgpu::BufferBindingType::Storage { read_only: *a == Access::Read })
            }));
        let layout = (self.device)
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(label), entries: &entries });
        let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(label),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(label),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &[],
                zero_initialize_workgroup_memory: self.bounds_checks,
            },
            cache: None,
        });
        Pipeline::new(pipeline, layout, !self.compiles_late())
    }
}
