//! How a tensor's elements are stored on the GPU.

use super::block8;

/// Storage type. Arithmetic is f32 whatever the storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit float.
    F32,
    /// Half precision, two to a `u32` word (`unpack2x16float`, core WGSL, so it works on every adapter).
    F16,
    /// Signed bytes in blocks of 64 with a scale each ([`super::block8`]): frozen weights whose last extent is a
    /// multiple of 64.
    Q8,
    /// 32-bit unsigned integer: token ids.
    U32,
}

impl DType {
    /// Bytes of `elements` values of this type and nothing else: what a copy moves and a readback returns.
    pub fn value_bytes(self, elements: usize) -> u64 {
        let elements = elements as u64;
        match self {
            DType::F32 | DType::U32 => elements.saturating_mul(4),
            DType::F16 => elements.saturating_mul(2),
            DType::Q8 => elements.div_ceil(block8::VALUES as u64).saturating_mul(block8::BYTES as u64),
        }
    }

    /// Bytes that `elements` of this type take, padded to whole `vec4` so that kernels may read the last vector whole.
    pub fn bytes(self, elements: usize) -> u64 {
        // Numbers that no adapter has stay so: limits are checked against them.
        let padded = (elements.div_ceil(4).max(1) as u64).saturating_mul(4);
        match self {
            DType::F32 | DType::U32 => padded.saturating_mul(4),
            DType::F16 => padded.saturating_mul(2),
            DType::Q8 => {
                let bytes = elements.div_ceil(block8::VALUES).max(1).saturating_mul(block8::BYTES) as u64;
                bytes.div_ceil(16).saturating_mul(16)
            }
        }
    }
}
