//! Epilogue of a contraction: what its kernels do with a sum before they write it.
//!
//! Uniforms say whether a bias and an addend exist, instead of kernels of their own: compiling a kernel takes a driver
//! a tenth of a second to two. A LoRA's loop over its rank, if it is not a pass of its own, is worth a separate kernel:
//! it is a fifth of one. A software driver that compiles fast has other kernels for results without them.

use super::contraction::{Dims, Operands};
use super::{Activation, AddKind, Gemm};
use crate::base::DType;
use crate::gpu::{Access, AdapterClass};
use crate::graph::{KernelLaunch, Launch, Slot};

/// `activation(alpha * sum + bias + addend + lora)`, written to `out` [m, n].
#[derive(Clone)]
pub(super) struct Epilogue {
    pub m: usize,
    pub n: usize,
    pub out: Slot,
    pub out_vec: bool,
    pub activation: Option<Activation>,
    bias: Option<Slot>,
    /// How an absent bias is declared.
    bias_access: Access,
    add: Option<Added>,
    /// Kernels know whether there are a bias and an addend.
    known: bool,
    /// Hidden rows, up projection, rank, scale.
    pub lora: Option<(Slot, Slot, usize, f64)>,
    pub alpha: f64,
}

/// Columns `offset..` of row `m / rows` of a matrix of `stride` columns, for row m of the result.
#[derive(Clone, Copy)]
struct Added {
    slot: Slot,
    rows: usize,
    stride: usize,
    offset: usize,
}

impl Epilogue {
    /// Writes sums unchanged.
    pub fn plain(m: usize, n: usize, out: Slot, out_vec: bool) -> Epilogue {
        Epilogue {
            m,
            n,
            out,
            out_vec,
            activation: None,
            bias: None,
            bias_access: Access::ReadWrite,
            add: None,
            known: false,
            lora: None,
            alpha: 1.0,
        }
    }

    pub fn new(gemm: &Gemm, l: &Launch, at: &Operands, d: &Dims, fours: bool) -> Epilogue {
        let width = |i: usize| l.input(i).shape.last();
        let lora = match (at.hidden, at.up, gemm.lora) {
            (Some(hidden), Some(up), Some(scale)) => Some((l.input_slot(hidden), l.input_slot(up), width(up), scale)),
            _ => None,
        };
        let rows_per_sample = (d.batch * d.m / d.out[0].max(1)).max(1);
        let add = gemm.add.zip(at.add).map(|(kind, i)| match kind {
            AddKind::Full => Added { slot: l.input_slot(i), rows: 1, stride: d.n, offset: 0 },
            AddKind::PerSample { offset } => {
                Added { slot: l.input_slot(i), rows: rows_per_sample, stride: width(i), offset }
            }
        });
        // A model's biases are in f32 and stored as its weights are: without one the kernel is the same.
        let (_, access) = l.declared(l.input_slot(at.w));
        Epilogue {
            activation: gemm.activation,
            bias: at.bias.map(|i| l.input_slot(i)),
            bias_access: access,
            add,
            known: l.caps.class == AdapterClass::Cpu && !l.caps.compiles_slowly(),
            lora,
            alpha: gemm.alpha,
            ..Epilogue::plain(d.m, d.n, l.output_slot(0), d.n.is_multiple_of(4) && fours)
        }
    }

    /// Epilogue of all parts of a result but the last: without its bias, written to `out`.
    pub fn bare_into(&self, out: Slot) -> Epilogue {
        Epilogue { bias: None, lora: None, out, ..self.clone() }
    }

    /// Replaces all addends by `sum` [m, n].
    pub fn add_all_of(&mut self, sum: Slot) {
        self.add = Some(Added { slot: sum, rows: 1, stride: self.n, offset: 0 });
    }

    /// Binds only the result.
    pub fn bind_result<'l, 'a>(&self, k: KernelLaunch<'l, 'a>) -> KernelLaunch<'l, 'a> {
        k.value("out_vec", self.out_vec)
            .value("add_vec", self.add_vec())
            .value("biases", !self.known || self.bias.is_some())
            .value("adds", !self.known || self.add.is_some())
            .value("lora", self.lora.is_some())
            .value("activation", self.activation.map_or("", Activation::wgsl))
            .write_as("out", self.out, self.out_vec)
    }

    /// Binds the addends and the result.
    pub fn bind<'l, 'a>(&self, k: KernelLaunch<'l, 'a>) -> KernelLaunch<'l, 'a> {
        let k = match self.bias {
            Some(bias) => k.read("bias", bias),
            None => k.absent("bias", DType::F32, false, self.bias_access),
        };
        let k = match self.add {
            Some(add) => k.read_as("add", add.slot, self.add_vec()),
            None => k.absent("add", DType::F32, self.add_vec(), Access::ReadWrite),
        };
        let k = match self.lora {
            Some((hidden, up, ..)) => k.read("hidden", hidden).read("up", up),
            None => k,
        };
        self.bind_result(k)
    }

    fn add_vec(&self) -> bool {
        let four = |add: Added| add.stride.is_multiple_of(4) && add.offset.is_multiple_of(4);
        self.out_vec && self.add.is_none_or(four)
    }

    /// Sets the uniforms of the kernel.
    pub fn uniforms<'l, 'a>(&self, k: KernelLaunch<'l, 'a>) -> KernelLaunch<'l, 'a> {
        let (rank, scale) = self.lora.map_or((0, 0.0), |(.., rank, scale)| (rank, scale));
        let [rows, stride, offset] = self.add.map_or([0; 3], |add| [add.rows, add.stride, add.offset]);
        k.u32("m", self.m)
            .u32("n", self.n)
            .u32("out_batch", self.m * self.n)
            .u32("bias", usize::from(self.bias.is_some()))
            .u32("rank", rank)
            .u32("add_rows", rows)
            .u32("add_stride", stride)
            .u32("add_offset", offset)
            .f32("alpha", self.alpha)
            .f32("lora_scale", scale / self.alpha)
    }
}
