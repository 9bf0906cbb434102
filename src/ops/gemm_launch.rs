//! The kernels that run a [`Gemm`].

use super::gemm::{Dims, Operands};
use super::tile::{Extent, STEP, Tile};
use super::{Activation, AddKind, Gemm, Result, Rows};
use crate::gpu::AdapterClass;
use crate::gpu::shader;
use crate::graph::{KernelLaunch, Launch, Slot};

pub(super) fn launch(gemm: &Gemm, l: &mut Launch, at: &Operands, d: &Dims) -> Result<()> {
    let extent = Extent {
        batch: d.batch,
        m: d.m,
        n: d.n,
        k: d.taps * (d.c1 + d.c2),
        pair: gemm.geglu,
        splittable: d.batch == 1 && !gemm.geglu,
        window: gemm.rows != Rows::Same,
    };
    let tile = Tile::choose(l.caps, l.variants, extent);
    let (tiles, tiles_m, tiles_n) = tile.counts(extent);
    let epilogue = Epilogue::new(gemm, l, at, d, tile.fours);
    let (x, x2, w) = (l.input_slot(0), at.x2.map(|i| l.input_slot(i)), l.input_slot(at.w));
    let split = tile.splits > 1;
    let parts = split.then(|| l.scratch(tile.splits * d.m * d.n));

    let four = |n: usize| n.is_multiple_of(4);
    let k_contiguous = d.b_k == 1;
    let b_vec = if k_contiguous {
        four(d.b_n) && four(d.b_tap) && four(d.c1)
    } else {
        four(d.b_k) && four(d.b_tap) && four(d.b_col0) && four(d.n) && tile.fours
    };
    let hardware = tile.class == AdapterClass::Gpu;
    let mut k = l.kernel(if hardware { shader!("gemm_gpu") } else { shader!("gemm_cpu") });
    for &(name, value) in &tile.values {
        k = k.value(name, value);
    }
    let whole = |n: usize| n.is_multiple_of(STEP);
    k = k
        .value("split", split)
        .value("k_whole", whole(d.c1) && whole(d.c2))
        .value("x_vec", four(d.c1))
        .value("x2_vec", four(d.c2))
        .value("b_vec", b_vec)
        .value("b", if k_contiguous { "nk" } else { "kn" })
        .value("x2", gemm.x2)
        .value(
            "geometry",
            match gemm.rows {
                Rows::Same => "rows",
                Rows::Conv(_) => "conv",
                Rows::Transposed { .. } => "transposed",
            },
        )
        .value("geglu", gemm.geglu)
        .value("batched", gemm.batched)
        .read_as("x", x, four(d.c1));
    if let Some(x2) = x2 {
        k = k.read_as("x2", x2, four(d.c2));
    }
    k = k.read_as("w", w, b_vec);
    k = match parts {
        Some(parts) => epilogue.values(k, four(d.n)).write_as("out", parts, four(d.n)),
        None => epilogue.bind(k),
    };
    k = k
        .u32("tiles", tiles)
        .u32("tiles_m", tiles_m)
        .u32("tiles_n", tiles_n)
        .u32("splits", tile.splits)
        .u32("c1", d.c1)
        .u32("c2", d.c2)
        .u32("taps", d.taps)
        .u32("b_k", d.b_k)
        .u32("b_tap", d.b_tap)
        .u32("b_n", d.b_n)
        .u32("b_col0", d.b_col0)
        .u32("a_batch", d.m * d.c1)
        .u32("b_batch", d.w_elements / d.batch.max(1));
    k = epilogue.uniforms(k);
    if let Rows::Conv(conv) | Rows::Transposed { conv, .. } = &gemm.rows {
        k = k
            .u32("out_h", d.out_size[0])
            .u32("out_w", d.out_size[1])
            .u32("in_h", d.in_size[0])
            .u32("in_w", d.in_size[1])
            .u32("kw", d.kernel[1])
            .u32("stride", conv.stride)
            .u32("pad_top", conv.pad[0])
            .u32("pad_left", conv.pad[1])
            .u32("up", usize::from(conv.upsample));
    }
    k.linear(tiles.div_ceil(tile.units))?;
    match parts {
        Some(parts) => reduce(l, parts, tile.splits, &epilogue),
        None => Ok(()),
    }
}

/// Adds `splits` parts of [m, n] each and finishes the result.
pub(super) fn reduce(l: &mut Launch, parts: Slot, splits: usize, epilogue: &Epilogue) -> Result<()> {
    let vectors = epilogue.n.div_ceil(4);
    let k = l.kernel(shader!("gemm_reduce")).read_as("parts", parts, epilogue.out_vec);
    let k = epilogue.bind(k).u32("splits", splits).u32("vectors", vectors);
    epilogue.uniforms(k).linear((epilogue.m * vectors).div_ceil(64))
}

/// What happens to a sum before it is written.
pub(super) struct Epilogue {
    pub m: usize,
    pub n: usize,
    pub out: Slot,
    pub out_vec: bool,
    bias: Option<Slot>,
    add: Option<Slot>,
    add_kind: Option<AddKind>,
    add_stride: usize,
    rows_per_sample: usize,
    /// Hidden rows, up projection, rank, scale.
    lora: Option<(Slot, Slot, usize, f64)>,
    activation: Option<Activation>,
    alpha: f64,
}

impl Epilogue {
    /// Writes sums unchanged.
    pub fn plain(m: usize, n: usize, out: Slot, out_vec: bool) -> Epilogue {
        Epilogue {
            m,
            n,
            out,
            out_vec,
            bias: None,
            add: None,
            add_kind: None,
            add_stride: 0,
            rows_per_sample: 1,
            lora: None,
            activation: None,
            alpha: 1.0,
        }
    }

    fn new(gemm: &Gemm, l: &Launch, at: &Operands, d: &Dims, fours: bool) -> Epilogue {
        let width = |i: usize| l.input(i).shape.last();
        let lora = match (at.hidden, at.up, gemm.lora) {
            (Some(hidden), Some(up), Some(scale)) => Some((l.input_slot(hidden), l.input_slot(up), width(up), scale)),
            _ => None,
        };
        Epilogue {
            bias: at.bias.map(|i| l.input_slot(i)),
            add: at.add.map(|i| l.input_slot(i)),
            add_kind: gemm.add,
            add_stride: at.add.map_or(0, width),
            rows_per_sample: (d.m / d.out[0].max(1)).max(1),
            lora,
            activation: gemm.activation,
            alpha: gemm.alpha,
            ..Epilogue::plain(d.m, d.n, l.output_slot(0), d.n.is_multiple_of(4) && fours)
        }
    }

    fn values<'l, 'a>(&self, k: KernelLaunch<'l, 'a>, out_vec: bool) -> KernelLaunch<'l, 'a> {
        let add = match self.add_kind {
            None => "none",
            Some(AddKind::Full) => "full",
            Some(AddKind::PerSample { .. }) => "sample",
        };
        k.value("out_vec", out_vec)
            .value("bias", self.bias.is_some())
            .value("add", add)
            .value("lora", self.lora.is_some())
            .value("activation", self.activation.map_or("", Activation::wgsl))
    }

    fn bind<'l, 'a>(&self, k: KernelLaunch<'l, 'a>) -> KernelLaunch<'l, 'a> {
        let mut k = self.values(k, self.out_vec);
        if let Some(bias) = self.bias {
            k = k.read("bias", bias);
        }
        if let Some(add) = self.add {
            k = k.read_as("add", add, self.add_kind == Some(AddKind::Full) && self.out_vec);
        }
        if let Some((hidden, up, ..)) = self.lora {
            k = k.read("hidden", hidden).read("up", up);
        }
        k.write_as("out", self.out, self.out_vec)
    }

    fn uniforms<'l, 'a>(&self, k: KernelLaunch<'l, 'a>) -> KernelLaunch<'l, 'a> {
        let offset = if let Some(AddKind::PerSample { offset }) = self.add_kind { offset } else { 0 };
        let (rank, scale) = self.lora.map_or((0, 0.0), |(.., rank, scale)| (rank, scale));
        k.u32("m", self.m)
            .u32("n", self.n)
            .u32("out_batch", self.m * self.n)
            .u32("rank", rank)
            .u32("rows_per_sample", self.rows_per_sample)
            .u32("add_stride", self.add_stride)
            .u32("add_offset", offset)
            .f32("alpha", self.alpha)
            .f32("lora_scale", scale / self.alpha)
    }
}
