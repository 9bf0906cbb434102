//! Adapters and the device.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};

use super::kernels::{Kernels, Needed};
#[cfg(not(target_arch = "wasm32"))]
use super::runs::Runs;
use super::turn::Turn;
use super::{AdapterClass, Caps};
use crate::base::lock;
use crate::error::{Error, Result};

/// Options for opening a device.
#[derive(Clone, Debug, Default)]
pub struct DeviceOptions {
    /// Index in [`adapters`], or part of a name. `None`: the first discrete GPU, integrated GPU, other adapter or
    /// software driver, in this order.
    pub adapter: Option<String>,
    /// Keeps wgpu's bounds checks in shaders: slower. The op tests run with and without them.
    pub bounds_checks: bool,
}

/// Adapter, as `portray info` lists it.
#[derive(Clone, Debug)]
pub struct AdapterEntry {
    /// wgpu's description.
    pub info: wgpu::AdapterInfo,
    /// Limits.
    pub limits: wgpu::Limits,
    /// Features.
    pub features: wgpu::Features,
    /// Kernel family that it would run.
    pub class: AdapterClass,
}

impl AdapterEntry {
    /// Limits and kernel family of a device opened on this adapter, from which plans are made.
    pub fn caps(&self) -> Caps {
        caps_of(&self.info, &self.limits, self.features)
    }
}

/// Device with its queue and compiled kernels. Cheap to clone.
#[derive(Clone)]
pub struct Gpu {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    info: wgpu::AdapterInfo,
    caps: Caps,
    pub(super) bounds_checks: bool,
    /// Whether this crate opened the device: then it sets the callbacks and may compile on threads of its own.
    is_ours: bool,
    /// Frame budget, on a job that a host application drives. The host polls the device; without it, waiting blocks our
    /// own thread.
    pub(crate) turn: Option<Turn>,
    /// Kernels that the job of this handle must compile.
    pub(super) needed: Option<Arc<Needed>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    kernels: Kernels,
    #[cfg(not(target_arch = "wasm32"))]
    runs: Runs,
    /// Pipeline that paints textures, once it is known to work.
    paint: Mutex<Option<wgpu::ComputePipeline>>,
    fault: Mutex<Option<String>>,
    /// Reason of the device's loss.
    lost: Mutex<Option<String>>,
    /// Number of copies to the host.
    readbacks: AtomicU64,
    /// Recent seconds per cost unit, for sizing submits.
    pace: Mutex<Option<f64>>,
}

/// Features that kernels use if a device has them.
pub(crate) const USED_FEATURES: wgpu::Features = wgpu::Features::SUBGROUP;

fn instance() -> wgpu::Instance {
    wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle_from_env())
}

fn class_of(info: &wgpu::AdapterInfo) -> AdapterClass {
    if info.device_type == wgpu::DeviceType::Cpu { AdapterClass::Cpu } else { AdapterClass::Gpu }
}

fn caps_of(info: &wgpu::AdapterInfo, limits: &wgpu::Limits, features: wgpu::Features) -> Caps {
    let class = class_of(info);
    let fixed = info.subgroup_min_size == info.subgroup_max_size && (4..=8).contains(&info.subgroup_max_size);
    let shares = class == AdapterClass::Cpu && features.contains(wgpu::Features::SUBGROUP) && fixed;
    Caps {
        class,
        max_binding_bytes: limits.max_storage_buffer_binding_size,
        max_buffer_bytes: limits.max_buffer_size,
        max_storage_buffers: limits.max_storage_buffers_per_shader_stage,
        max_workgroups_per_dimension: limits.max_compute_workgroups_per_dimension,
        storage_alignment: u64::from(limits.min_storage_buffer_offset_alignment),
        uniform_alignment: u64::from(limits.min_uniform_buffer_offset_alignment),
        // A browser's software adapter is SwiftShader; Chromium does not always say so.
        register_tile: match info.name.contains("SwiftShader") || info.backend == wgpu::Backend::BrowserWebGpu {
            true => 64,
            false => 256,
        },
        subgroup: if shares { info.subgroup_max_size } else { 0 },
        cores: std::thread::available_parallelism().map_or(4, |n| n.get()),
    }
}

/// Lists all adapters, in wgpu's order.
pub async fn adapters() -> Vec<AdapterEntry> {
    let found = instance().enumerate_adapters(wgpu::Backends::all()).await;
    found.iter().map(entry).collect()
}

fn entry(a: &wgpu::Adapter) -> AdapterEntry {
    let info = a.get_info();
    AdapterEntry { class: class_of(&info), info, limits: a.limits(), features: a.features() }
}

/// Rank of an adapter by its kind if none is asked for; lower comes first.
fn rank(kind: wgpu::DeviceType) -> u32 {
    match kind {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu | wgpu::DeviceType::Other => 2,
        wgpu::DeviceType::Cpu => 3,
    }
}

/// Chooses the adapter of `instance` that `wanted` names, by index or part of a name. Otherwise the first discrete GPU,
/// integrated GPU, other adapter or software driver, in this order. A browser has only one.
///
/// # Errors
/// [`Error::Device`] if there is no adapter, [`Error::Usage`] if none has that name.
pub async fn choose_adapter(instance: &wgpu::Instance, wanted: Option<&str>) -> Result<wgpu::Adapter> {
    let mut found = instance.enumerate_adapters(wgpu::Backends::all()).await;
    let names = found.iter().map(|a| a.get_info().name).collect::<Vec<_>>().join(", ");
    if found.is_empty() {
        return Err(Error::Device(
            "no GPU adapter answers: install a Vulkan driver (a software one: apt install mesa-vulkan-drivers)".into(),
        ));
    }
    let from_env = std::env::var("WGPU_ADAPTER_NAME").ok();
    let wanted = wanted.or(from_env.as_deref());
    let index = match wanted {
        None => (0..found.len()).min_by_key(|&i| rank(found[i].get_info().device_type)),
        Some(text) => match text.parse::<usize>() {
            Ok(i) => (i < found.len()).then_some(i),
            Err(_) => {
                let text = text.to_lowercase();
                found.iter().position(|a| a.get_info().name.to_lowercase().contains(&text))
            }
        },
    };
    match index {
        Some(i) => Ok(found.swap_remove(i)),
        None => {
            let wanted = wanted.unwrap_or_default();
            Err(Error::value("adapter", wanted, format!("no such adapter; there are: {names}")))
        }
    }
}

impl Gpu {
    /// Opens the adapter that `options` names, with all of its limits.
    ///
    /// # Errors
    /// Those of [`choose_adapter`], and [`Error::Device`] if the device cannot be opened.
    pub async fn request(options: &DeviceOptions) -> Result<Gpu> {
        let adapter = choose_adapter(&instance(), options.adapter.as_deref()).await?;
        let info = adapter.get_info();
        let of_class = match class_of(&info) {
            AdapterClass::Cpu => wgpu::Features::MAPPABLE_PRIMARY_BUFFERS,
            AdapterClass::Gpu => wgpu::Features::empty(),
        };
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("portray"),
            required_features: adapter.features() & (USED_FEATURES | of_class),
            required_limits: adapter.limits(),
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            ..Default::default()
        };
        let (device, queue) =
            (adapter.request_device(&descriptor).await).map_err(|e| Error::Device(format!("{}: {e}", info.name)))?;
        let gpu = Gpu { is_ours: true, ..Gpu::from_device(info, device, queue, options.bounds_checks) };
        let (shared, lost) = (gpu.shared.clone(), gpu.shared.clone());
        // wgpu's default handler panics; an error here becomes an error of the run.
        gpu.device.on_uncaptured_error(Arc::new(move |e| shared.fail(e.to_string())));
        gpu.device.set_device_lost_callback(move |reason, message| {
            if reason != wgpu::DeviceLostReason::Destroyed {
                lost.lose(message);
            }
        });
        Ok(gpu)
    }

    /// Uses a host application's device and leaves its callbacks alone.
    pub fn from_device(info: wgpu::AdapterInfo, device: wgpu::Device, queue: wgpu::Queue, bounds_checks: bool) -> Gpu {
        let caps = caps_of(&info, &device.limits(), device.features());
        Gpu {
            device,
            queue,
            info,
            caps,
            bounds_checks,
            is_ours: false,
            turn: None,
            needed: None,
            shared: Arc::default(),
        }
    }

    /// Returns a handle for a job that a host drives: it submits what `turn` allows, and never polls or blocks.
    pub(crate) fn for_host(&self, turn: Turn) -> Gpu {
        Gpu { turn: Some(turn), ..self.clone() }
    }

    /// Returns a handle for a job that counts the kernels it compiles.
    pub(super) fn counting(&self, needed: Option<Arc<Needed>>) -> Gpu {
        Gpu { needed, ..self.clone() }
    }

    /// Marks the device as lost: every job on it ends with an error.
    pub(crate) fn lose(&self, why: &str) {
        self.shared.lose(why.to_owned());
    }

    pub(super) fn is_ours(&self) -> bool {
        self.is_ours
    }

    pub(super) fn known(&self) -> &Kernels {
        &self.shared.kernels
    }

    /// Runs of plans on the queue.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn runs(&self) -> &Runs {
        &self.shared.runs
    }

    /// Makes an error of what wgpu reported.
    pub(crate) fn error(&self, message: &str) -> Error {
        Error::Device(format!("{}: {}", self.info.name, first_lines(message)))
    }

    /// Pipeline that paints textures, once a job has made it.
    pub(super) fn painting(&self) -> MutexGuard<'_, Option<wgpu::ComputePipeline>> {
        lock(&self.shared.paint)
    }

    /// Number of copies from the adapter to the host so far.
    pub fn readbacks(&self) -> u64 {
        self.shared.readbacks.load(Relaxed)
    }

    pub(super) fn count_readback(&self) {
        self.shared.readbacks.fetch_add(1, Relaxed);
    }

    /// Limits and kernel family.
    pub fn caps(&self) -> &Caps {
        &self.caps
    }

    /// wgpu's description of the adapter.
    pub fn info(&self) -> &wgpu::AdapterInfo {
        &self.info
    }

    /// Bytes currently allocated on the adapter, staging included, if the backend reports them.
    pub fn allocated_bytes(&self) -> Option<u64> {
        self.device.generate_allocator_report().map(|r| r.total_allocated_bytes)
    }

    /// Tries whether `bytes` can be allocated now, in the largest possible buffers: WebGPU does not report memory
    /// sizes.
    #[cfg(target_arch = "wasm32")]
    pub(crate) async fn can_allocate(&self, bytes: u64) -> bool {
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let most = self.caps.max_buffer_bytes;
        let sizes = (0..bytes.div_ceil(most)).map(|i| most.min(bytes - i * most));
        let buffers: Vec<_> = sizes.map(|size| self.buffer("trial", size, wgpu::BufferUsages::STORAGE)).collect();
        let fits = scope.pop().await.is_none();
        drop(buffers);
        fits
    }

    /// The browser's `GPUDevice`.
    #[cfg(all(target_arch = "wasm32", feature = "web"))]
    pub(crate) fn web_device(&self) -> wasm_bindgen::JsValue {
        self.device
            .as_webgpu()
            .map_or(wasm_bindgen::JsValue::NULL, |device| wasm_bindgen::JsValue::from(device.clone()))
    }

    /// Returns the first error that wgpu reported since the last call; the loss of a device is returned every time.
    ///
    /// # Errors
    /// [`Error::Device`] with that error.
    pub fn check(&self) -> Result<()> {
        if let Some(why) = lock(&self.shared.lost).as_deref() {
            return Err(Error::Device(format!("{}: the device was lost: {why}", self.info.name)));
        }
        match lock(&self.shared.fault).take() {
            Some(message) => Err(self.error(&message)),
            None => Ok(()),
        }
    }

    pub(crate) fn pace(&self) -> Option<f64> {
        *lock(&self.shared.pace)
    }

    pub(crate) fn set_pace(&self, pace: f64) {
        *lock(&self.shared.pace) = Some(pace);
    }
}

impl Shared {
    fn fail(&self, message: String) {
        lock(&self.fault).get_or_insert(message);
    }

    fn lose(&self, why: String) {
        lock(&self.lost).get_or_insert(why);
    }
}

fn first_lines(message: &str) -> String {
    message.lines().map(str::trim).filter(|l| !l.is_empty()).take(6).collect::<Vec<_>>().join(" / ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_is_taken_before_software_and_its_own_memory_before_shared() {
        use wgpu::DeviceType::{Cpu, DiscreteGpu, IntegratedGpu, Other, VirtualGpu};
        let mut kinds =
            [(Cpu, 0), (VirtualGpu, 1), (IntegratedGpu, 2), (Other, 3), (DiscreteGpu, 4), (IntegratedGpu, 5)];
        kinds.sort_by_key(|(kind, _)| rank(*kind));
        assert_eq!(kinds.map(|(_, index)| index), [4, 2, 5, 1, 3, 0]);
    }
}
