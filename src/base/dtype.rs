//! How a tensor's elements are stored on the GPU.

/// Storage type. Arithmetic is f32 whatever the storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit float.
    F32,
    /// Half precision, two to a `u32` word (`unpack2x16float`, core WGSL, so it works on every adapter).
    F16,
    /// 32-bit unsigned integer: token ids.
    U32,
}

impl DType {
    /// Bytes that `elements` of this type take, padded to whole `vec4` so that kernels may read the last vector whole.
    pub fn bytes(self, elements: usize) -> u64 {
        let padded = elements.div_ceil(4).max(1) as u64 * 4;
        match self {
            DType::F32 | DType::U32 => padded * 4,
            DType::F16 => padded * 2,
        }
    }
}
