//! Limits and class of an adapter as plain data: plans are made from it without a GPU.

use std::collections::BTreeMap;

/// Family of kernels that suits an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdapterClass {
    /// Software drivers: large register tiles, no workgroup memory.
    Cpu,
    /// Hardware: workgroup-memory tiles.
    Gpu,
}

/// Limits and class of an adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct Caps {
    /// Kernel family.
    pub class: AdapterClass,
    /// Largest storage binding in bytes.
    pub max_binding_bytes: u64,
    /// Largest buffer in bytes.
    pub max_buffer_bytes: u64,
    /// Largest number of storage buffers in one dispatch.
    pub max_storage_buffers: u32,
    /// Largest number of workgroups in each dimension of a dispatch.
    pub max_workgroups_per_dimension: u32,
    /// Alignment of a storage binding's offset, in bytes.
    pub storage_alignment: u64,
    /// Alignment of a uniform binding's offset, in bytes.
    pub uniform_alignment: u64,
    /// Outputs that one thread of an unrolled `cpu` kernel may hold: 256, or 64 where the driver takes seconds to
    /// compile such a kernel (SwiftShader: 2.8 s at 256, 0.85 s at 128).
    pub register_tile: usize,
    /// Threads per subgroup if every subgroup has that many and the device has the feature, else 0. `cpu` kernels share
    /// loads within it.
    pub subgroup: u32,
    /// Processor cores that a software driver runs workgroups on.
    pub cores: usize,
}

impl Caps {
    /// Returns whether the driver compiles for so long that a first run is quicker with fewer and shorter kernels, though
    /// they run a little longer: Mesa's lavapipe, whose threads share within subgroups (without them it is only slower at
    /// first). SwiftShader compiles fast, and runs what lies behind a condition whether it holds or not.
    pub fn compiles_slowly(&self) -> bool {
        self.class == AdapterClass::Cpu && self.subgroup > 0
    }

    /// WebGPU's default limits. Every adapter in a browser meets them; a native driver may have less.
    pub fn webgpu_defaults(class: AdapterClass) -> Caps {
        Caps {
            class,
            max_binding_bytes: 128 << 20,
            max_buffer_bytes: 256 << 20,
            max_storage_buffers: 8,
            max_workgroups_per_dimension: 65535,
            storage_alignment: 256,
            uniform_alignment: 256,
            register_tile: 256,
            subgroup: 0,
            cores: 4,
        }
    }
}

/// Kernel variant to use for each shape class: measured once per adapter and driver, then stored.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Variants {
    /// `kernel/shape class` -> variant name.
    pub chosen: BTreeMap<String, String>,
}

impl Variants {
    /// Returns the variant chosen for `key`, if any.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.chosen.get(key).map(String::as_str)
    }
}
