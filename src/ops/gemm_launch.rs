//! The kernels that run a [`Gemm`].

use super::gemm::{Dims, Operands};
use super::gemm_epilogue::Epilogue;
use super::tile::{Extent, STEP, Tile};
use super::{Conv, Gemm, Result, Rows};
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
    let tiles = tile.counts(extent);
    let epilogue = Epilogue::new(gemm, l, at, d, tile.fours);
    let product = Product { gemm, d, tile, tiles, w: l.input_slot(at.w) };
    match product.tile.class {
        AdapterClass::Cpu => product.software(l, at, epilogue),
        AdapterClass::Gpu => product.hardware(l, at, &epilogue),
    }
}

/// Adds `splits` parts of [m, n] each and finishes the result.
pub(super) fn reduce(l: &mut Launch, parts: Slot, splits: usize, epilogue: &Epilogue) -> Result<()> {
    let vectors = epilogue.n.div_ceil(4);
    let k = l.kernel(shader!("gemm_reduce")).read_as("parts", parts, epilogue.out_vec);
    let k = epilogue.bind(k).u32("splits", splits).u32("vectors", vectors);
    epilogue.uniforms(k).linear((epilogue.m * vectors).div_ceil(64))
}

/// A contraction that is about to be launched.
struct Product<'a> {
    gemm: &'a Gemm,
    d: &'a Dims,
    tile: Tile,
    /// Tiles in all, along the rows, and along the columns.
    tiles: (usize, usize, usize),
    w: Slot,
}

impl Product<'_> {
    /// On software drivers, what a kernel costs before its first run outweighs another pass over a result: a second
    /// source and an activation are dispatches of their own, and a plain row is a pixel under a window of one, of the
    /// kind that other products with such a `w` have.
    fn software(&self, l: &mut Launch, at: &Operands, mut epilogue: Epilogue) -> Result<()> {
        let (d, x) = (self.d, l.input_slot(0));
        let window = match &self.gemm.rows {
            Rows::Same if !self.gemm.batched => Some(Window::line(d.m, self.gemm.k_major)),
            rows => Window::new(rows, d),
        };
        let activation = epilogue.activation.take();
        if let Some(x2) = at.x2 {
            let sum = l.scratch(d.m * d.n);
            self.pass(l, [0, d.c1], x, window, &epilogue.clone().bare_into(sum))?;
            epilogue.add_all_of(sum);
            self.pass(l, [d.c1, d.c2], l.input_slot(x2), window, &epilogue)?;
        } else {
            self.pass(l, [0, d.c1], x, window, &epilogue)?;
        }
        activation.map_or(Ok(()), |activation| activation.in_place(l, epilogue.out, d.m * d.n))
    }

    /// The contraction of the source `x`, whose channels are `count` of `w`'s from `first` on.
    fn pass(
        &self,
        l: &mut Launch,
        [first, count]: [usize; 2],
        x: Slot,
        window: Option<Window>,
        epilogue: &Epilogue,
    ) -> Result<()> {
        let k = self.values(l.kernel(shader!("gemm_cpu")), window, first).value("x_vec", four(count));
        let k = k.read_as("x", x, four(count)).read_as("w", self.w, self.w_vec(first));
        let k = epilogue.bind(k).u32("c1", count);
        let k = self.uniforms(k, window, first);
        epilogue.uniforms(k).linear(self.tiles.0.div_ceil(self.tile.units))
    }

    fn hardware(&self, l: &mut Launch, at: &Operands, epilogue: &Epilogue) -> Result<()> {
        let (d, splits) = (self.d, self.tile.splits);
        let parts = (splits > 1).then(|| l.scratch(splits * d.m * d.n));
        let (x, x2) = (l.input_slot(0), at.x2.map(|i| l.input_slot(i)));
        let window = Window::new(&self.gemm.rows, d);
        let whole = |n: usize| n.is_multiple_of(STEP);
        // One loop reads `w` for both sources.
        let second = if self.gemm.x2 { d.c1 } else { 0 };
        let mut k = self
            .values(l.kernel(shader!("gemm_gpu")), window, second)
            .value("split", parts.is_some())
            .value("k_whole", whole(d.c1) && whole(d.c2))
            .value("x_vec", four(d.c1))
            .value("x2_vec", four(d.c2))
            .value("x2", self.gemm.x2)
            .read_as("x", x, four(d.c1));
        if let Some(x2) = x2 {
            k = k.read_as("x2", x2, four(d.c2));
        }
        k = k.read_as("w", self.w, self.w_vec(second));
        k = match parts {
            Some(parts) => Epilogue::plain(d.m, d.n, parts, four(d.n)).bind_result(k),
            None => epilogue.bind(k),
        };
        k = self.uniforms(k.u32("c1", d.c1).u32("c2", d.c2).u32("splits", splits), window, 0);
        epilogue.uniforms(k).linear(self.tiles.0)?;
        match parts {
            Some(parts) => reduce(l, parts, splits, epilogue),
            None => Ok(()),
        }
    }

    /// Whether `w` is read in vectors by those who begin at its channel `first`.
    fn w_vec(&self, first: usize) -> bool {
        let d = self.d;
        let along = if d.b_k == 1 { four(d.b_n) } else { four(d.b_k) && four(d.n) && self.tile.fours };
        along && four(d.b_tap) && four(d.b_col0 + first * d.b_k)
    }

    fn values<'l, 'a>(&self, mut k: KernelLaunch<'l, 'a>, window: Option<Window>, first: usize) -> KernelLaunch<'l, 'a> {
        for &(name, value) in &self.tile.values {
            k = k.value(name, value);
        }
        k.value("b_vec", self.w_vec(first))
            .value("b", if self.d.b_k == 1 { "nk" } else { "kn" })
            .value("geometry", window.map_or("rows", |w| if w.transposed { "transposed" } else { "conv" }))
            .value("geglu", self.gemm.geglu)
            .value("batched", self.gemm.batched)
    }

    fn uniforms<'l, 'a>(&self, k: KernelLaunch<'l, 'a>, window: Option<Window>, first: usize) -> KernelLaunch<'l, 'a> {
        let d = self.d;
        let k = k
            .u32("tiles", self.tiles.0)
            .u32("tiles_m", self.tiles.1)
            .u32("tiles_n", self.tiles.2)
            .u32("taps", d.taps)
            .u32("b_k", d.b_k)
            .u32("b_tap", d.b_tap)
            .u32("b_n", d.b_n)
            .u32("b_col0", d.b_col0 + first * d.b_k)
            .u32("a_batch", d.m * d.c1)
            .u32("b_batch", d.w_elements / d.batch.max(1));
        match window {
            Some(window) => window.uniforms(k),
            None => k,
        }
    }
}

fn four(n: usize) -> bool {
    n.is_multiple_of(4)
}

/// Which pixels feed a row of the result, as `shaders/lib/geometry.wgsl` has it.
#[derive(Clone, Copy)]
struct Window {
    /// Height and width of the result and of the source.
    out: [usize; 2],
    input: [usize; 2],
    /// Its width.
    columns: usize,
    stride: usize,
    /// Above and to the left.
    pad: [usize; 2],
    upsample: bool,
    /// The source's pixels are outputs of the convolution, the result's its inputs.
    transposed: bool,
}

impl Window {
    /// One pixel of a line of `m`: row for row.
    fn line(m: usize, transposed: bool) -> Window {
        let size = [1, m];
        Window { out: size, input: size, columns: 1, stride: 1, pad: [0; 2], upsample: false, transposed }
    }

    fn new(rows: &Rows, d: &Dims) -> Option<Window> {
        let of = |conv: &Conv| Window {
            out: d.out_size,
            input: d.in_size,
            columns: d.kernel[1],
            stride: conv.stride,
            pad: [conv.pad[0], conv.pad[1]],
            upsample: conv.upsample,
            transposed: false,
        };
        match rows {
            Rows::Same => None,
            Rows::Conv(conv) => Some(of(conv)),
            Rows::Transposed { conv, .. } => Some(Window { transposed: true, ..of(conv) }),
        }
    }

    fn uniforms<'l, 'a>(&self, k: KernelLaunch<'l, 'a>) -> KernelLaunch<'l, 'a> {
        k.u32("out_h", self.out[0])
            .u32("out_w", self.out[1])
            .u32("in_h", self.input[0])
            .u32("in_w", self.input[1])
            .u32("kw", self.columns)
            .u32("stride", self.stride)
            .u32("pad_top", self.pad[0])
            .u32("pad_left", self.pad[1])
            .u32("up", usize::from(self.upsample))
    }
}
