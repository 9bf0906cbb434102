//! Checkpoint tensors to stored parameters and back.

use std::borrow::Cow;
use std::ops::Range;

use half::vec::HalfFloatVecExt as _;

use super::{Pack, Param, Source};
use crate::base::{DType, block4, block8, layout};
use crate::error::{Error, Result, message, option};
use crate::gpu::Shared;

/// A checkpoint tensor's values, in PyTorch's layout.
#[derive(Clone, Debug)]
pub struct HostTensor<'a> {
    /// Shape in the checkpoint.
    pub shape: Vec<usize>,
    /// Row-major values.
    pub values: Cow<'a, [f32]>,
}

/// Function that gives rows of a checkpoint tensor by its key (`unet.conv_in.weight`) and the shape that the configuration
/// asks for, in PyTorch's layout.
pub trait FetchRows: Fn(&str, &[usize], Range<usize>) -> Result<Vec<f32>> + Shared {}
impl<F: Fn(&str, &[usize], Range<usize>) -> Result<Vec<f32>> + Shared> FetchRows for F {}

/// Smallest value that becomes infinite in f16.
const ABOVE_HALF: f32 = 65520.0;

/// About how many values of a tensor are measured, in this many places: 4096 blocks tell its loss to one in a hundred.
const SAMPLE: usize = 1 << 17;
const SAMPLE_PLACES: usize = 16;

/// Returns what the tensor of `param` loses in four-bit blocks, relative to its RMS (0.08: eight in a hundred), in rows
/// spread over it if it is large.
///
/// # Errors
/// If blocks do not fill its rows; those of `fetch`.
pub fn four_bit_loss(param: &Param, fetch: &dyn FetchRows) -> Result<f64> {
    if !param.shape.last().is_multiple_of(block4::VALUES) {
        return Err(Error::op("measure", format!("{}: {} is not whole blocks", param.key, param.shape)));
    }
    let mut plain = param.clone();
    plain.dtype = DType::F32;
    let mut bytes = Vec::new();
    for from in &param.sources {
        let rows = from.shape.first().copied().unwrap_or(1);
        let columns: usize = from.shape.iter().skip(1).product();
        let most = (SAMPLE / columns.max(1)).max(SAMPLE_PLACES);
        let places = if rows <= most { 1 } else { SAMPLE_PLACES };
        let each = rows.min(most) / places;
        for place in 0..places {
            let first = (rows - each) * place / (places - 1).max(1);
            let values = fetch(&from.key, &from.shape, first..first + each)?;
            pack_rows(&plain, from, &values, &mut bytes)?;
        }
    }
    Ok(block4::loss(&bytemuck::pod_collect_to_vec::<u8, f32>(&bytes)))
}

/// Compares shapes, ignoring a trailing window of one pixel.
fn same_shape(a: &[usize], b: &[usize]) -> bool {
    let stem = |s: &[usize]| match s {
        [out, input, 1, 1] => vec![*out, *input],
        _ => s.to_vec(),
    };
    stem(a) == stem(b)
}

fn check(key: &str, shape: &[usize], tensor: &HostTensor) -> Result<()> {
    let (part, name) = key.split_once('.').unwrap_or(("", key));
    if !same_shape(&tensor.shape, shape) || tensor.values.len() != shape.iter().product::<usize>() {
        let message = format!(
            "{name} is {:?} in the weights, {shape:?} by config.json: they belong to different models",
            tensor.shape
        );
        return Err(Error::file(part, message));
    }
    Ok(())
}

/// Packs the stored bytes of `param` from its sources' values, in order.
pub fn pack(param: &Param, tensors: &[HostTensor]) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(param.bytes() as usize);
    for (from, tensor) in param.sources.iter().zip(tensors) {
        check(&from.key, &from.shape, tensor)?;
        pack_rows(param, from, &tensor.values, &mut bytes)?;
    }
    if tensors.len() != param.sources.len() {
        let (given, wanted) = (tensors.len(), param.sources.len());
        return Err(Error::op("pack", format!("{}: {given} tensors given, {wanted} wanted", param.key)));
    }
    Ok(bytes)
}

/// Appends the stored bytes of rows of the checkpoint tensor `from`: every layout change stays within a row.
pub(super) fn pack_rows(param: &Param, from: &Source, values: &[f32], bytes: &mut Vec<u8>) -> Result<()> {
    let values: Cow<[f32]> = match (param.pack, from.shape.as_slice()) {
        (Pack::Conv, &[_, input, kh, kw]) => {
            let rows = values.len() / (input * kh * kw).max(1);
            layout::to_channels_last(values, [rows, input, kh, kw]).into()
        }
        _ => Cow::Borrowed(values),
    };
    match param.dtype {
        DType::F32 => bytes.extend_from_slice(bytemuck::cast_slice(&values)),
        DType::F16 => {
            let largest = values.iter().fold(0f32, |most, x| most.max(x.abs()));
            if let Some(value) = values.iter().find(|x| largest >= ABOVE_HALF && x.abs() >= ABOVE_HALF) {
                let message = format!("{}: holds {value}, half precision ends at 65504", from.key);
                return Err(Error::limit(message![message, ": give ", option("dtype"), " f32"]));
            }
            let halves = Vec::<half::f16>::from_f32_slice(&values);
            bytes.extend_from_slice(bytemuck::cast_slice(&halves));
        }
        DType::Q8 => block8::quantize(&values, bytes),
        DType::Q4 => block4::quantize(&values, bytes),
        DType::U32 => return Err(Error::op("pack", format!("{} cannot be stored as whole numbers", param.key))),
    }
    Ok(())
}

/// Unpacks the checkpoint tensors that the stored `bytes` of `param` hold: key, shape and values in PyTorch's layout.
pub fn unpack(param: &Param, bytes: &[u8]) -> Result<Vec<(String, HostTensor<'static>)>> {
    let elements = param.elements();
    let stored = match param.dtype {
        DType::F32 | DType::U32 => elements * 4,
        DType::F16 => elements * 2,
        DType::Q8 => elements / block8::VALUES * block8::BYTES,
        DType::Q4 => elements / block4::VALUES * block4::BYTES,
    };
    let Some(bytes) = bytes.get(..stored) else {
        return Err(Error::op("unpack", format!("{}: {} bytes for {}", param.key, bytes.len(), param.shape)));
    };
    let all: Vec<f32> = match param.dtype {
        DType::Q8 => block8::dequantize(bytes),
        DType::Q4 => block4::dequantize(bytes),
        DType::F16 => bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        _ => bytemuck::pod_collect_to_vec(bytes),
    };
    let mut start = 0;
    let mut tensors = Vec::with_capacity(param.sources.len());
    for from in &param.sources {
        let count: usize = from.shape.iter().product();
        let values = &all[start..start + count];
        let values = match (param.pack, from.shape.as_slice()) {
            (Pack::Conv, &[out, input, kh, kw]) => layout::to_channels_first(values, [out, input, kh, kw]),
            _ => values.to_vec(),
        };
        tensors.push((from.key.clone(), HostTensor { shape: from.shape.clone(), values: values.into() }));
        start += count;
    }
    Ok(tensors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{Scope, Settings};

    fn tensor(shape: &[usize]) -> HostTensor<'static> {
        let values: Vec<f32> = (0..shape.iter().product::<usize>()).map(|i| i as f32 - 3.5).collect();
        HostTensor { shape: shape.to_vec(), values: values.into() }
    }

    #[test]
    fn packing_and_unpacking_are_inverse() {
        for dtype in [DType::F32, DType::F16] {
            let root = Scope::new("unet", Settings { dtype, ..Settings::default() });
            let conv = root.pp("conv").weight(&[3, 5, 2, 1], Pack::Conv);
            let pixel = root.pp("proj").weight(&[3, 5, 1, 1], Pack::Pixel);
            let stacked = root.stacked("kv", "weight", &[(root.pp("k"), 2), (root.pp("v"), 3)], Some(4));
            for param in [conv, pixel, stacked] {
                let given: Vec<HostTensor> = param.sources.iter().map(|s| tensor(&s.shape)).collect();
                let back = unpack(&param, &pack(&param, &given).unwrap()).unwrap();
                assert_eq!(back.len(), given.len());
                for ((key, tensor), (given, from)) in back.iter().zip(given.iter().zip(&param.sources)) {
                    assert_eq!((key, &tensor.shape), (&from.key, &from.shape));
                    assert_eq!(tensor.values, given.values);
                }
            }
        }
    }

    #[test]
    fn blocks_hold_rows_as_convolutions_read_them() {
        let root = Scope::new("unet", Settings { dtype: DType::Q4, ..Settings::default() });
        let conv = root.pp("conv").weight(&[2, 64, 3, 1], Pack::Conv);
        let stacked = root.stacked("kv", "weight", &[(root.pp("k"), 2), (root.pp("v"), 3)], Some(128));
        for param in [conv, stacked] {
            assert_eq!(param.dtype, DType::Q4);
            // Along the stored rows values rise, so that a block's are near to each other.
            let given: Vec<HostTensor> = param.sources.iter().map(|s| tensor(&s.shape)).collect();
            let bytes = pack(&param, &given).unwrap();
            assert_eq!(bytes.len(), param.elements() / 32 * 20);
            let back = unpack(&param, &bytes).unwrap();
            for ((key, tensor), (given, from)) in back.iter().zip(given.iter().zip(&param.sources)) {
                assert_eq!((key, &tensor.shape), (&from.key, &from.shape));
                // A block spans 31 columns or pixels of three values each: half a step, and the minimum's rounding.
                let most = given.values.len() as f32 * 0.003 + 31.0 * 3.0 / 15.0;
                let worst = tensor.values.iter().zip(&*given.values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(worst > 0.0 && worst < most, "{key}: off by {worst}, at most {most}");
            }
        }
    }

    #[test]
    fn what_four_bits_lose_is_measured_in_all_rows_or_in_rows_from_both_ends() {
        let root = Scope::new("unet", Settings::default());
        for (rows, seen) in [(5, 5), (9000, 2048)] {
            let param = root.pp(rows).weight(&[rows, 64], Pack::AsIs);
            let met = std::sync::Mutex::new(Vec::new());
            let fetch = |_: &str, _: &[usize], some: Range<usize>| {
                met.lock().unwrap().push(some.clone());
                // One value far from the others takes all codes: they all become zero.
                let row = (0..64).map(|i| if i == 0 { 1000.0 } else { (i % 2) as f32 });
                Ok(some.flat_map(|_| row.clone()).collect())
            };
            let loss = four_bit_loss(&param, &fetch).unwrap();
            assert!((0.001..0.01).contains(&loss), "{loss}");
            let met = met.into_inner().unwrap();
            assert_eq!(met.iter().map(ExactSizeIterator::len).sum::<usize>(), seen);
            assert_eq!((met[0].start, met[met.len() - 1].end), (0, rows));
        }
        assert!(four_bit_loss(&root.pp("odd").weight(&[4, 40], Pack::AsIs), &|_, _, _| Ok(Vec::new())).is_err());
    }

    #[test]
    fn a_convolution_is_stored_channels_last() {
        let conv = Scope::new("unet", Settings::default()).weight(&[1, 2, 1, 2], Pack::Conv);
        let bytes = pack(&conv, &[tensor(&[1, 2, 1, 2])]).unwrap();
        let stored: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes);
        assert_eq!(stored, [-3.5, -1.5, -2.5, -0.5]);
    }

    #[test]
    fn what_half_precision_does_not_hold_is_refused() {
        let settings = Settings { dtype: DType::F16, ..Settings::default() };
        let param = Scope::new("unet", settings).pp("conv_in").weight(&[1, 2], Pack::AsIs);
        let with = |value: f32| pack(&param, &[HostTensor { shape: vec![1, 2], values: vec![0.0, value].into() }]);
        assert!(with(-65504.0).is_ok() && with(65519.0).is_ok(), "what rounds to the largest half is one");
        for value in [65520.0, -1e6] {
            let error = with(value).unwrap_err().to_string();
            assert!(error.contains("unet.conv_in.weight") && error.contains("give dtype f32"), "{error}");
        }
    }

    #[test]
    fn a_shape_that_differs_from_the_config_is_named() {
        let param = Scope::new("unet", Settings::default()).pp("conv_in").weight(&[4, 3], Pack::AsIs);
        let error = pack(&param, &[tensor(&[3, 4])]).unwrap_err().to_string();
        for part in ["unet", "conv_in.weight", "[3, 4]", "[4, 3]"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(pack(&param, &[]).is_err());
        assert!(unpack(&param, &[0; 4]).is_err());
    }
}
