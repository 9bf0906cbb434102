//! Kernels of [`Attention`] and its gradients.

use super::attention_spec::Dims;
use super::{Attention, Result};
use crate::gpu::shader;
use crate::gpu::{AdapterClass, Caps, Variants};
use crate::graph::{KernelLaunch, Launch, Slot};

pub(super) fn forward(of: &Attention, l: &mut Launch, d: &Dims) -> Result<()> {
    let (spec, vec) = (&of.spec, of.vectors(d));
    let heads = d.n * spec.heads;
    let (k, v, out, lse) = (l.input_slot(1), l.input_slot(2), l.output_slot(0), l.output_slot(1));
    let (q, q_place) = queries(of, l, d)?;
    let share = Share::choose(l.caps, l.variants, d.queries, spec.head_dim, 8);
    let blocks = Blocks::choose(l.caps, spec.head_dim, vec);
    let kernel = match &blocks {
        Some(blocks) => blocks.values(l.kernel(shader!("attention_gpu")).value("stage", "forward")),
        None => (l.kernel(shader!("attention_cpu")).value("W", if vec { 4 } else { 1 }))
            .value("ROWS", share.rows)
            .value("KEYS", share.block)
            .value("SG", share.lanes)
            .value("D", spec.head_dim)
            .u32("turns", if share.rows > 1 { share.rows } else { spec.head_dim / if vec { 4 } else { 1 } }),
    };
    let kernel = if blocks.is_some() {
        kernel.value("causal", spec.causal)
    } else {
        kernel.u32("causal", usize::from(spec.causal))
    };
    let kernel = kernel
        .read_as("q", q, vec)
        .read_as("k", k, vec)
        .read_as("v", v, vec)
        .write_as("out", out, vec)
        .write("lse", lse);
    let kernel = uniforms(of, kernel.weight(d.keys), d, q_place);
    match &blocks {
        Some(blocks) => blocks.dispatch(kernel, heads, d.queries),
        None => share.dispatch(kernel, heads, d.queries),
    }
}

pub(super) fn backward(of: &Attention, l: &mut Launch, d: &Dims) -> Result<()> {
    let (s, vec) = (of.spec, of.vectors(d));
    let slots: Vec<_> = (0..6).map(|i| l.input_slot(i)).collect();
    let outs: Vec<_> = (0..3).map(|i| l.output_slot(i)).collect();
    let delta = l.scratch(d.n * s.heads * d.queries);
    for stage in ["delta", "dq", "dkv"] {
        let tokens = if stage == "dkv" { d.keys } else { d.queries };
        let blocks = Blocks::choose(l.caps, s.head_dim, vec).filter(|_| stage != "delta");
        let share = match stage {
            "delta" => Share { rows: 1, block: 1, lanes: 0 },
            // Nothing but loads of two statistics is saved by a longer block.
            _ => {
                let share = Share::choose(l.caps, l.variants, tokens, 2 * s.head_dim, 4);
                Share { block: share.block.min(2), ..share }
            }
        };
        let k = match &blocks {
            Some(blocks) => blocks.values(l.kernel(shader!("attention_gpu"))),
            None => (l.kernel(shader!("attention_bwd_cpu")).value("W", if vec { 4 } else { 1 }))
                .value("ROWS", share.rows)
                .value("BLOCK", share.block)
                .value("SG", share.lanes)
                .value("D", s.head_dim)
                .u32("turns", share.rows),
        };
        let k = k.value("stage", stage).value("causal", s.causal);
        let k = match stage {
            "delta" => k.read_as("o", slots[3], vec).read_as("dout", slots[5], vec).write("delta", delta),
            _ => k
                .read_as("q", slots[0], vec)
                .read_as("k", slots[1], vec)
                .read_as("v", slots[2], vec)
                .read("lse", slots[4])
                .read_as("dout", slots[5], vec)
                .read("delta", delta),
        };
        let k = match stage {
            "dq" => k.write_as("dq", outs[0], vec),
            "dkv" => k.write_as("dk", outs[1], vec).write_as("dv", outs[2], vec),
            _ => k,
        };
        let k = uniforms(of, k, d, [d.widths[0], of.offsets[0]]);
        match &blocks {
            Some(blocks) => blocks.dispatch(k, d.n * s.heads, tokens)?,
            None => share.dispatch(k, d.n * s.heads, tokens)?,
        }
    }
    Ok(())
}

/// Groups of four rows in a workgroup of hardware.
const ROW_GROUPS: usize = 16;
/// Bytes of workgroup memory that every adapter has.
const WORKGROUP_BYTES: usize = 16 << 10;

/// Tile of scores of a workgroup on hardware; see `shaders/attention_gpu.wgsl`.
struct Blocks {
    /// Vectors of four in a head.
    vectors: usize,
    /// Quarter of the tokens of a tile.
    token_groups: usize,
    /// Vectors of each row's result that a thread holds.
    columns: usize,
}

impl Blocks {
    /// Chooses a tile; `None` if the register kernels are used.
    fn choose(caps: &Caps, head_dim: usize, vec: bool) -> Option<Blocks> {
        if caps.class != AdapterClass::Gpu || !vec {
            return None;
        }
        let vectors = head_dim / 4;
        // Two vectors of a row's result feed enough FMAs to hide their loads, and leave registers for eight waves.
        let cost = |&groups: &usize| {
            let columns = vectors.div_ceil(groups);
            (groups * columns - vectors, columns.abs_diff(2))
        };
        let token_groups =
            [4, 5, 8, 10].into_iter().filter(|groups| vectors.div_ceil(*groups) <= 4).min_by_key(cost)?;
        Some(Blocks { vectors, token_groups, columns: vectors.div_ceil(token_groups) })
    }

    fn values<'l, 'a>(&self, k: KernelLaunch<'l, 'a>) -> KernelLaunch<'l, 'a> {
        let tokens = 4 * self.token_groups;
        // Longer chunks pass fewer barriers, shorter ones of many groups take fewer registers.
        let chunks: &[usize] = if self.token_groups >= 8 { &[2, 5, 4, 3, 1] } else { &[5, 4, 3, 2, 1] };
        let operands = |chunk: usize| (4 * ROW_GROUPS + tokens) * (chunk + 1 - chunk % 2);
        let fits = |chunk: &&usize| {
            self.vectors.is_multiple_of(**chunk)
                && 16 * (operands(**chunk) + tokens * (ROW_GROUPS + 1)) <= WORKGROUP_BYTES
        };
        let chunk = chunks.iter().find(fits).copied().unwrap_or(1);
        // As many tokens' vectors at a time as fit where the scores' operands lie.
        let batch = (4..=if self.token_groups >= 8 { 8 } else { tokens }).rev();
        let batch = batch.step_by(4).find(|n| tokens.is_multiple_of(*n) && n * self.vectors <= operands(chunk));
        k.value("C", self.vectors)
            .value("RG", ROW_GROUPS)
            .value("KG", self.token_groups)
            .value("CO", self.columns)
            .value("DC", chunk)
            .value("VK", batch.unwrap_or(4))
    }

    fn dispatch(&self, k: KernelLaunch, heads: usize, rows: usize) -> Result<()> {
        let workgroups = heads * rows.div_ceil(4 * ROW_GROUPS);
        k.u32("workgroups", workgroups).linear(workgroups)
    }
}

/// Number of tokens from which more rows per thread save enough loads.
const LONG: usize = 1024;
/// Rows per thread below that.
const SHORT_ROWS: usize = 4;
/// Values per token beyond which a thread's registers hold one row.
const WIDE: usize = 80;

/// Distribution of tokens over threads.
#[derive(Clone, Copy)]
struct Share {
    /// Tokens of a thread: as many as its registers hold and leave work for every lane.
    rows: usize,
    /// Tokens of the other side read at a time.
    block: usize,
    /// Threads of a subgroup that share loads; 0: none do.
    lanes: usize,
}

impl Share {
    /// Chooses a distribution. `width` values are kept per token, and at most `most` tokens: beyond that, kernels
    /// compile for seconds.
    fn choose(caps: &Caps, variants: &Variants, tokens: usize, width: usize, most: usize) -> Share {
        let alone = variants.get("attention") == Some("thread");
        let lanes = if alone { 0 } else { caps.subgroup as usize };
        if lanes == 0 {
            let fit = (caps.register_tile / width.max(1)).clamp(1, 4);
            return Share { rows: if tokens < 16 { 1 } else { fit }, block: 1, lanes };
        }
        // A driver takes twice as long for eight rows as for four, and longer than a short sequence's whole job. One
        // kernel serves all short ones: lanes without a row cost less than another.
        let (most, block) = if tokens < LONG { (most.min(SHORT_ROWS), 2) } else { (most, 4) };
        let (most, block) = if width > WIDE { (1, 1) } else { (most, block) };
        let fit = (caps.register_tile / width.max(1)).clamp(1, most);
        Share { rows: fit, block, lanes }
    }

    fn dispatch(&self, k: KernelLaunch, heads: usize, tokens: usize) -> Result<()> {
        let threads = heads * tokens.div_ceil(self.rows * self.lanes.max(1));
        k.u32("threads", threads).linear(threads.div_ceil(if self.lanes > 0 { 1 } else { 8 }))
    }
}

/// Queries times squared channels from which on a layer's products take so long that a copy of its queries adds nothing that
/// could be measured. The layers of Stable Diffusion have more from 128 x 128 pixels on.
const LARGE_LAYER: usize = 1 << 22;

/// Returns the queries with their width and offset. Drivers that compile slowly get a copy of those that lie beside keys and
/// values in one tensor, because a kernel binds no memory twice: self-attention and cross-attention would be a kernel each.
/// Small layers do without: there a dispatch takes longer than its work.
fn queries(of: &Attention, l: &mut Launch, d: &Dims) -> Result<(Slot, [usize; 2])> {
    let (slot, width, offset) = (l.input_slot(0), d.widths[0], of.offsets[0]);
    let channels = of.spec.heads * of.spec.head_dim;
    let beside = slot == l.input_slot(1) && slot == l.input_slot(2);
    let whole = width.is_multiple_of(channels) && offset.is_multiple_of(channels);
    let large = d.queries * channels * channels >= LARGE_LAYER;
    if !(l.caps.compiles_slowly() && beside && whole && large) {
        return Ok((slot, [width, offset]));
    }
    let (copy, vec) = (l.scratch(d.n * d.queries * channels), of.vectors(d));
    let columns = channels / if vec { 4 } else { 1 };
    l.kernel(shader!("copy_rows"))
        .value("vec4", vec)
        .read_as("x", slot, vec)
        .write_as("out", copy, vec)
        .u32("samples", d.n * d.queries)
        .u32("rows", 1)
        .u32("columns", columns)
        .u32("x_rows", width / channels)
        .u32("out_rows", 1)
        .u32("from_row", offset / channels)
        .u32("to_row", 0)
        .linear((d.n * d.queries * columns).div_ceil(64))?;
    Ok((copy, [channels, 0]))
}

fn uniforms<'l, 'a>(
    of: &Attention,
    k: KernelLaunch<'l, 'a>,
    d: &Dims,
    [q_width, q_offset]: [usize; 2],
) -> KernelLaunch<'l, 'a> {
    k.u32("heads", of.spec.heads)
        .u32("queries", d.queries)
        .u32("keys", d.keys)
        .u32("q_width", q_width)
        .u32("k_width", d.widths[1])
        .u32("v_width", d.widths[2])
        .u32("q_offset", q_offset)
        .u32("k_offset", of.offsets[1])
        .u32("v_offset", of.offsets[2])
        .f32("scale", of.spec.scale)
}
