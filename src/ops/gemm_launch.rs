//! Kernels of a [`Gemm`].

use super::contraction::{Dims, Operands};
use super::gemm_epilogue::Epilogue;
use super::tile::{Extent, PAIR_ROWS, STEP, Tile};
use super::{Activation, Conv, Geglu, Gemm, Result, Rows};
use crate::base::DType;
use crate::gpu::shader;
use crate::gpu::{AdapterClass, Caps};
use crate::graph::{KernelLaunch, Launch, Slot};

pub(super) fn launch(gemm: &Gemm, l: &mut Launch, at: &Operands, d: &Dims) -> Result<()> {
    let out = l.output_slot(0);
    if !(gemm.geglu && gates_apart(l.caps, d)) {
        return launch_into(gemm, l, at, d, out);
    }
    let both = l.scratch(d.m * 2 * d.n);
    let columns = Gemm { geglu: false, ..gemm.clone() };
    launch_into(&columns, l, at, &Dims { n: 2 * d.n, ..d.clone() }, both)?;
    Geglu { gate: Activation::Gelu }.forward(l, [both, out], [d.m, d.n])
}

/// Sums of so many terms take longer than another pass over their results.
const LONG_SUM: usize = 256;

/// Returns whether a GEGLU pair is better a product and a pass over its result. It is so on drivers that compile slowly, if
/// one binding holds both halves: for long sums (a model that has no others needs no kernel for pairs), and for more than 8
/// rows up to 32, for which plain products have tiles of 16 and 32 rows, and pairs have none.
fn gates_apart(caps: &Caps, d: &Dims) -> bool {
    let bytes = DType::F32.bytes(d.m * 2 * d.n);
    let [short, tall] = PAIR_ROWS;
    let gains = d.taps * d.c1 >= LONG_SUM || (d.m > short && d.m <= tall / 2);
    caps.compiles_slowly() && gains && bytes <= caps.max_binding_bytes
}

fn launch_into(gemm: &Gemm, l: &mut Launch, at: &Operands, d: &Dims, out: Slot) -> Result<()> {
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
    let mut epilogue = Epilogue::new(gemm, l, at, d, tile.fours);
    epilogue.out = out;
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

/// Contraction to launch.
struct Product<'a> {
    gemm: &'a Gemm,
    d: &'a Dims,
    tile: Tile,
    /// Tiles in all, along the rows, and along the columns.
    tiles: (usize, usize, usize),
    w: Slot,
}

/// Factors of a contraction and the layout of their elements.
#[derive(Clone, Copy)]
struct Factors {
    x: Slot,
    channels: usize,
    w: Slot,
    taps: usize,
    /// From one element of `w` to the next along k, taps and columns, and to the first.
    strides: [usize; 3],
    first: usize,
    window: Option<Window>,
}

impl Product<'_> {
    /// Launches the kernels for software drivers. There the compile time of a kernel outweighs another pass over a
    /// result. So a second source, a LoRA's term and an activation are dispatches of their own. Where drivers compile
    /// slowly a plain row is a pixel under a window of one, of the kind that other products with such a `w` have.
    fn software(&self, l: &mut Launch, at: &Operands, mut epilogue: Epilogue) -> Result<()> {
        let d = self.d;
        let window = match &self.gemm.rows {
            Rows::Same if !self.gemm.batched && l.caps.compiles_slowly() => Some(Window::line(d.m, self.gemm.k_major)),
            rows => Window::new(rows, d),
        };
        let whole = self.factors(l, window);
        let mut passes = vec![(whole, self.gemm.alpha)];
        if let Some(x2) = at.x2 {
            let first = d.b_col0 + d.c1 * d.b_k;
            passes.push((Factors { x: l.input_slot(x2), channels: d.c2, first, ..whole }, self.gemm.alpha));
        }
        if !self.gemm.geglu
            && !self.gemm.batched
            && let Some((hidden, up, rank, scale)) = epilogue.lora.take()
        {
            let window = l.caps.compiles_slowly().then(|| Window::line(d.m, false));
            let strides = [1, 0, rank];
            let lora = Factors { x: hidden, channels: rank, w: up, taps: 1, strides, first: 0, window };
            passes.push((lora, scale));
        }
        let activation = epilogue.activation.take();
        let last = passes.len() - 1;
        for (i, (factors, alpha)) in passes.into_iter().enumerate() {
            epilogue.alpha = alpha;
            if i == last {
                self.pass(l, &factors, &epilogue)?;
            } else {
                let sum = l.scratch(d.m * d.n);
                self.pass(l, &factors, &epilogue.bare_into(sum))?;
                epilogue.add_all_of(sum);
            }
        }
        activation.map_or(Ok(()), |activation| activation.in_place(l, epilogue.out, d.m * d.n))
    }

    fn pass(&self, l: &mut Launch, of: &Factors, epilogue: &Epilogue) -> Result<()> {
        let x_vec = four(of.channels);
        let k = self.values(l.kernel(shader!("gemm_cpu")), of).value("x_vec", x_vec).value("x_fours", of.channels >= 4);
        let k = epilogue.bind(k.read_as("x", of.x, x_vec).read_as("w", of.w, self.w_vec(of)));
        let k = self.uniforms(k.u32("c1", of.channels), of).weight(of.channels * of.taps);
        epilogue.uniforms(k).linear(self.tiles.0.div_ceil(self.tile.units))
    }

    fn hardware(&self, l: &mut Launch, at: &Operands, epilogue: &Epilogue) -> Result<()> {
        let (d, splits) = (self.d, self.tile.splits);
        let parts = (splits > 1).then(|| l.scratch(splits * d.m * d.n));
        let whole = |n: usize| n.is_multiple_of(STEP);
        let of = self.factors(l, Window::new(&self.gemm.rows, d));
        let x2 = at.x2.map(|i| l.input_slot(i));
        let mut k = self
            .values(l.kernel(shader!("gemm_gpu")), &of)
            .value("split", parts.is_some())
            .value("k_whole", whole(d.c1) && whole(d.c2))
            .value("x_vec", four(d.c1))
            .value("x2_vec", four(d.c2))
            .value("x2", self.gemm.x2)
            .read_as("x", of.x, four(d.c1));
        if let Some(x2) = x2 {
            k = k.read_as("x2", x2, four(d.c2));
        }
        k = k.read_as("w", of.w, self.w_vec(&of));
        k = match parts {
            Some(parts) => Epilogue::plain(d.m, d.n, parts, four(d.n)).bind_result(k),
            None => epilogue.bind(k),
        };
        k = self.uniforms(k.u32("c1", d.c1).u32("c2", d.c2).u32("splits", splits), &of);
        epilogue.uniforms(k).linear(self.tiles.0)?;
        match parts {
            Some(parts) => reduce(l, parts, splits, epilogue),
            None => Ok(()),
        }
    }

    /// The first source, and `w`.
    fn factors(&self, l: &Launch, window: Option<Window>) -> Factors {
        let d = self.d;
        let strides = [d.b_k, d.b_tap, d.b_n];
        Factors { x: l.input_slot(0), channels: d.c1, w: self.w, taps: d.taps, strides, first: d.b_col0, window }
    }

    /// Returns whether `w` is read in vectors.
    fn w_vec(&self, of: &Factors) -> bool {
        let [k, tap, n] = of.strides;
        let along = if k == 1 { four(n) } else { four(k) && four(self.d.n) && self.tile.fours };
        // A second source of the same kernel begins behind the first.
        along && four(tap) && four(of.first) && (!self.gemm.x2 || four(self.d.c1))
    }

    fn values<'l, 'a>(&self, mut k: KernelLaunch<'l, 'a>, of: &Factors) -> KernelLaunch<'l, 'a> {
        for &(name, value) in &self.tile.values {
            k = k.value(name, value);
        }
        k.value("b_vec", self.w_vec(of))
            .value("b", if of.strides[0] == 1 { "nk" } else { "kn" })
            .value("geometry", of.window.map_or("rows", |w| if w.transposed { "transposed" } else { "conv" }))
            .value("geglu", self.gemm.geglu)
            .value("batched", self.gemm.batched)
    }

    fn uniforms<'l, 'a>(&self, k: KernelLaunch<'l, 'a>, of: &Factors) -> KernelLaunch<'l, 'a> {
        let d = self.d;
        let [b_k, b_tap, b_n] = of.strides;
        let k = k
            .u32("tiles", self.tiles.0)
            .u32("tiles_m", self.tiles.1)
            .u32("tiles_n", self.tiles.2)
            .u32("taps", of.taps)
            .u32("b_k", b_k)
            .u32("b_tap", b_tap)
            .u32("b_n", b_n)
            .u32("b_col0", of.first)
            .u32("a_batch", d.m * of.channels)
            .u32("b_batch", d.w_elements / d.batch.max(1));
        match of.window {
            Some(window) => window.uniforms(k),
            None => k,
        }
    }
}

fn four(n: usize) -> bool {
    n.is_multiple_of(4)
}

/// Window of a row of the result, as `shaders/lib/geometry.wgsl` has it.
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
    /// Transposed: the source's pixels are outputs of the convolution, the result's its inputs.
    transposed: bool,
}

impl Window {
    /// Window of one pixel in a line of `m`: row for row.
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
