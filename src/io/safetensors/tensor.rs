//! One named tensor: borrowed from a file that was read, or about to be written.

use std::borrow::Cow;
use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::error::{Error, Result};
use crate::io::Source;
use crate::io::source::CopyError;

macro_rules! element_types {
    ($($variant:ident $name:literal $bytes:literal $doc:literal),+ $(,)?) => {
        /// Storage type of a tensor's elements in a file.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ElementType { $(#[doc = $doc] $variant),+ }

        impl ElementType {
            /// The name in the file's header.
            pub fn name(self) -> &'static str {
                match self { $(ElementType::$variant => $name),+ }
            }
            /// The type of that name in a header.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(ElementType::$variant),)+ _ => None }
            }
            /// Bytes of one element.
            pub fn bytes(self) -> usize {
                match self { $(ElementType::$variant => $bytes),+ }
            }
        }
    };
}

element_types! {
    F64 "F64" 8 "Double precision.",
    F32 "F32" 4 "Single precision.",
    F16 "F16" 2 "IEEE half precision.",
    BF16 "BF16" 2 "The upper half of an f32.",
    F8E4M3 "F8_E4M3" 1 "8-bit float, 4 exponent bits (kept, not converted).",
    F8E5M2 "F8_E5M2" 1 "8-bit float, 5 exponent bits (kept, not converted).",
    I64 "I64" 8 "Signed.",
    I32 "I32" 4 "Signed.",
    I16 "I16" 2 "Signed.",
    I8 "I8" 1 "Signed.",
    U64 "U64" 8 "Unsigned.",
    U32 "U32" 4 "Unsigned.",
    U16 "U16" 2 "Unsigned.",
    U8 "U8" 1 "Unsigned.",
    Bool "BOOL" 1 "0 or 1.",
}

/// A named tensor in row-major order, its bytes little endian as they lie in the file.
#[derive(Clone, Debug)]
pub struct Tensor<'a> {
    /// Origin, for error messages; empty for one that was made here.
    file: Cow<'a, str>,
    /// Its name.
    pub name: Cow<'a, str>,
    /// Element type.
    pub dtype: ElementType,
    /// Extents, outermost first; empty for a scalar.
    pub shape: Cow<'a, [usize]>,
    data: Data<'a>,
}

#[derive(Clone, Debug)]
enum Data<'a> {
    /// Bytes in memory.
    Here(Cow<'a, [u8]>),
    /// Bytes that are read when needed.
    There(&'a Source, Range<u64>),
    /// Columns `range` of a stored matrix, as rows.
    Transposed(Box<Matrix<'a>>, Range<usize>),
}

/// A stored matrix.
#[derive(Clone, Debug)]
struct Matrix<'a> {
    data: Data<'a>,
    rows: usize,
    columns: usize,
    element: usize,
}

impl Data<'_> {
    /// The first `most` bytes, or as many as there are.
    fn first_bytes(&self, most: usize) -> Result<Cow<'_, [u8]>> {
        match self {
            Data::Here(bytes) => Ok(Cow::Borrowed(bytes.get(..most).unwrap_or(bytes))),
            Data::There(source, range) => {
                source.read(range.start..range.end.min(range.start.saturating_add(most as u64)))
            }
            Data::Transposed(matrix, range) => {
                let Matrix { data, rows, columns, element } = &**matrix;
                let stored = data.first_bytes(usize::MAX)?;
                let mut bytes = Vec::with_capacity(range.len() * rows * element);
                for column in range.clone() {
                    for row in 0..*rows {
                        let at = (row * columns + column) * element;
                        bytes.extend_from_slice(stored.get(at..at + element).unwrap_or_default());
                    }
                }
                bytes.truncate(most);
                Ok(Cow::Owned(bytes))
            }
        }
    }
}

impl<'a> Tensor<'a> {
    pub(super) fn view(
        source: &'a Source,
        name: &'a str,
        dtype: ElementType,
        shape: &'a [usize],
        range: Range<u64>,
    ) -> Self {
        let data = match source.slice(&range) {
            Some(bytes) => Data::Here(bytes.into()),
            None => Data::There(source, range),
        };
        Tensor { file: source.name().into(), name: name.into(), dtype, shape: shape.into(), data }
    }

    fn made(name: impl Into<String>, dtype: ElementType, shape: &[usize], bytes: Cow<'a, [u8]>) -> Self {
        Tensor {
            file: "".into(),
            name: Cow::Owned(name.into()),
            dtype,
            shape: Cow::Owned(shape.to_vec()),
            data: Data::Here(bytes),
        }
    }

    /// An f32 tensor over `data`, to be written.
    pub fn f32(name: impl Into<String>, shape: &[usize], data: &'a [f32]) -> Tensor<'a> {
        Tensor::made(name, ElementType::F32, shape, bytemuck::cast_slice(data).into())
    }

    /// Creates a tensor that owns its f32 values.
    pub fn owned_f32(name: impl Into<String>, shape: &[usize], data: &[f32]) -> Tensor<'static> {
        Tensor::made(name, ElementType::F32, shape, bytemuck::cast_slice(data).to_vec().into())
    }

    /// `data` rounded to half precision, to be written.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the tensor when a finite value does not fit half precision (above 65504).
    pub fn f16(name: impl Into<String>, shape: &[usize], data: &[f32]) -> Result<Tensor<'static>> {
        let name = name.into();
        let halves: Vec<f16> = data.iter().map(|&x| f16::from_f32(x)).collect();
        if let Some(i) = (0..data.len()).find(|&i| data[i].is_finite() && !halves[i].is_finite()) {
            let message = format!("tensor '{name}': {} does not fit half precision, write it as f32", data[i]);
            return Err(Error::argument(message));
        }
        Ok(Tensor::made(name, ElementType::F16, shape, bytemuck::cast_slice(&halves).to_vec().into()))
    }

    /// A tensor over `bytes` as they are stored, to be written.
    pub fn raw(name: impl Into<String>, dtype: ElementType, shape: &[usize], bytes: &'a [u8]) -> Tensor<'a> {
        Tensor::made(name, dtype, shape, bytes.into())
    }

    /// An i64 tensor over `data`, to be written.
    pub fn i64(name: impl Into<String>, shape: &[usize], data: &'a [i64]) -> Tensor<'a> {
        Tensor::made(name, ElementType::I64, shape, bytemuck::cast_slice(data).into())
    }

    /// Returns this tensor under another name.
    pub fn renamed(mut self, name: impl Into<String>) -> Tensor<'a> {
        self.name = Cow::Owned(name.into());
        self
    }

    /// Returns this tensor with another shape of as many elements.
    ///
    /// # Errors
    /// [`Error::File`] if the number of elements differs.
    pub fn reshaped(mut self, shape: Vec<usize>) -> Result<Tensor<'a>> {
        if shape.iter().product::<usize>() != self.elements() {
            return Err(self.error(format!("shape {:?} cannot be seen as {shape:?}", self.shape)));
        }
        self.shape = Cow::Owned(shape);
        Ok(self)
    }

    /// Its `count` rows from `first` on; `None` where it has fewer.
    pub fn rows(&self, first: usize, count: usize) -> Option<Tensor<'a>> {
        let (&rows, inner) = self.shape.split_first()?;
        let row = inner.iter().product::<usize>() * self.dtype.bytes();
        let range = first.checked_mul(row)?..first.checked_add(count).filter(|&end| end <= rows)?.checked_mul(row)?;
        let data = match &self.data {
            Data::Here(Cow::Borrowed(bytes)) => Data::Here(Cow::Borrowed(bytes.get(range)?)),
            Data::Here(Cow::Owned(bytes)) => Data::Here(Cow::Owned(bytes.get(range)?.to_vec())),
            Data::There(source, all) => {
                Data::There(source, all.start + range.start as u64..all.start + range.end as u64)
            }
            Data::Transposed(matrix, all) => {
                Data::Transposed(matrix.clone(), all.start + first..all.start + first + count)
            }
        };
        let shape = std::iter::once(count).chain(inner.iter().copied()).collect::<Vec<_>>().into();
        Some(Tensor { file: self.file.clone(), name: self.name.clone(), dtype: self.dtype, shape, data })
    }

    /// This matrix with rows and columns exchanged, read when its elements are. What is no matrix stays as it is.
    pub(in crate::low_level::io) fn transposed(mut self) -> Tensor<'a> {
        let &[rows, columns] = &*self.shape else { return self };
        self.shape = vec![columns, rows].into();
        let matrix = Matrix { data: self.data, rows, columns, element: self.dtype.bytes() };
        self.data = Data::Transposed(Box::new(matrix), 0..columns);
        self
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        // A zero extent beside huge ones must not overflow on the way to zero.
        if self.shape.contains(&0) { 0 } else { self.shape.iter().product() }
    }

    /// `elements * dtype.bytes()` bytes.
    ///
    /// # Errors
    /// [`Error::File`] when they cannot be read.
    pub fn bytes(&self) -> Result<Cow<'_, [u8]>> {
        self.first_bytes(usize::MAX)
    }

    /// The first `most` of them, or as many as there are.
    ///
    /// # Errors
    /// As [`Tensor::bytes`].
    pub fn first_bytes(&self, most: usize) -> Result<Cow<'_, [u8]>> {
        self.data.first_bytes(most)
    }

    /// Number of bytes.
    pub fn byte_len(&self) -> usize {
        match &self.data {
            Data::Here(bytes) => bytes.len(),
            Data::There(_, range) => (range.end - range.start) as usize,
            Data::Transposed(matrix, range) => range.len() * matrix.rows * matrix.element,
        }
    }

    /// Writes its bytes to `out`, a window of a file at a time.
    pub(in crate::low_level::io) fn write_to(&self, out: &mut dyn std::io::Write) -> Result<(), CopyError> {
        match &self.data {
            Data::Here(bytes) => out.write_all(bytes).map_err(CopyError::Write),
            Data::There(source, range) => source.copy_to(range.clone(), out),
            Data::Transposed(..) => match self.bytes() {
                Ok(bytes) => out.write_all(&bytes).map_err(CopyError::Write),
                Err(fault) => Err(CopyError::Read(fault)),
            },
        }
    }

    /// An error about this tensor that names its file.
    pub fn error(&self, message: impl std::fmt::Display) -> Error {
        Error::file(self.file.as_ref(), format!("tensor '{}': {message}", self.name))
    }

    /// Nothing, where the elements can be had as f32.
    ///
    /// # Errors
    /// As [`Tensor::to_f32`].
    pub fn check_type(&self) -> Result<()> {
        match self.dtype {
            ElementType::F64 | ElementType::F32 | ElementType::F16 | ElementType::BF16 => Ok(()),
            ElementType::F8E4M3 | ElementType::F8E5M2 => {
                let name = self.dtype.name();
                Err(self.error(format!("is {name}, which is not read: get the file in F16, BF16 or F32")))
            }
            other => Err(self.error(format!("is {}, expected F32, F16, BF16 or F64", other.name()))),
        }
    }

    /// The elements as f32, from F64, F32, F16 or BF16.
    ///
    /// # Errors
    /// [`Error::File`] for any other type.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        self.check_type()?;
        let bytes = &*self.bytes()?;
        Ok(match self.dtype {
            ElementType::F32 => bytemuck::pod_collect_to_vec(bytes),
            ElementType::F64 => bytemuck::pod_collect_to_vec::<u8, f64>(bytes).iter().map(|&x| x as f32).collect(),
            ElementType::F16 => bytemuck::pod_collect_to_vec::<u8, f16>(bytes).to_f32_vec(),
            _ => bytemuck::pod_collect_to_vec::<u8, bf16>(bytes).to_f32_vec(),
        })
    }

    /// The elements as f32, integers of any type rounded to the nearest.
    ///
    /// # Errors
    /// As [`Tensor::to_f32`], and for truth values.
    pub fn to_numbers(&self) -> Result<Vec<f32>> {
        match self.dtype {
            ElementType::U64 => {
                let values = bytemuck::pod_collect_to_vec::<u8, u64>(&self.bytes()?);
                Ok(values.into_iter().map(|x| x as f32).collect())
            }
            ElementType::I64
            | ElementType::I32
            | ElementType::I16
            | ElementType::I8
            | ElementType::U32
            | ElementType::U16
            | ElementType::U8 => Ok(self.to_i64()?.into_iter().map(|x| x as f32).collect()),
            _ => self.to_f32(),
        }
    }

    /// The elements as f32, all finite.
    ///
    /// # Errors
    /// As [`Tensor::to_f32`], and [`Error::File`] with the index of the first NaN or infinity.
    pub fn to_finite_f32(&self) -> Result<Vec<f32>> {
        self.finite(self.to_f32()?)
    }

    /// Returns the values as f32, also from integers, and checks that they are finite.
    ///
    /// # Errors
    /// Those of [`Tensor::to_numbers`], and [`Error::File`] with the index of the first NaN or infinity.
    pub fn to_finite_numbers(&self) -> Result<Vec<f32>> {
        self.finite(self.to_numbers()?)
    }

    fn finite(&self, values: Vec<f32>) -> Result<Vec<f32>> {
        match first_non_finite(&values) {
            Some(i) => Err(self.error(format!("holds {} (element {i}): the file is damaged", values[i]))),
            None => Ok(values),
        }
    }

    /// The elements as i64, from any integer type.
    ///
    /// # Errors
    /// [`Error::File`] for floats, and for a U64 above the largest i64.
    pub fn to_i64(&self) -> Result<Vec<i64>> {
        fn widen<T: bytemuck::AnyBitPattern + bytemuck::NoUninit + Into<i64>>(bytes: &[u8]) -> Vec<i64> {
            bytemuck::pod_collect_to_vec::<u8, T>(bytes).into_iter().map(Into::into).collect()
        }
        let bytes = &*self.bytes()?;
        Ok(match self.dtype {
            ElementType::I64 => bytemuck::pod_collect_to_vec(bytes),
            ElementType::I32 => widen::<i32>(bytes),
            ElementType::I16 => widen::<i16>(bytes),
            ElementType::I8 => widen::<i8>(bytes),
            ElementType::U32 => widen::<u32>(bytes),
            ElementType::U16 => widen::<u16>(bytes),
            ElementType::U8 | ElementType::Bool => widen::<u8>(bytes),
            ElementType::U64 => bytemuck::pod_collect_to_vec::<u8, u64>(bytes)
                .into_iter()
                .map(|x| i64::try_from(x).map_err(|_| self.error(format!("{x} is too large"))))
                .collect::<Result<_>>()?,
            other => {
                return Err(self.error(format!("is {}, expected whole numbers (I64 or I32)", other.name())));
            }
        })
    }
}

/// The index of the first NaN or infinity.
pub fn first_non_finite(values: &[f32]) -> Option<usize> {
    // A sum over a block is a loop of vectors, a search for the first is not.
    const BLOCK: usize = 1024;
    let damaged = |block: &[f32]| block.iter().fold(0u32, |n, x| n + u32::from(!x.is_finite())) > 0;
    let first = values.chunks(BLOCK).position(damaged)? * BLOCK;
    values[first..].iter().position(|x| !x.is_finite()).map(|i| first + i)
}
