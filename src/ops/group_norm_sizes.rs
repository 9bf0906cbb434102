//! Attributes and extents of group normalisation, which its passes share.

use super::Result;
use super::team::Team;
use crate::base::{Array, Shape};
use crate::error::Error;
use crate::gpu::{AdapterClass, Caps};
use crate::graph::KernelLaunch;

/// Operands `x` `[n,h,w,c1]`, [`x2` `[n,h,w,c2]`], `gamma`, `beta` [c1+c2]; results y [n,h,w,c1+c2] and the statistics
/// [n, groups, 4]: first value, mean less that, 1 / standard deviation, zero.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupNorm {
    /// Groups of channels.
    pub groups: usize,
    /// Constant added to the variance.
    pub eps: f64,
    /// Applies SiLU to the result.
    pub silu: bool,
    /// A second source of channels.
    pub x2: bool,
}

/// Largest group whose statistics one dispatch computes; larger ones are distributed over more threads.
const SMALL_GROUP: usize = 1 << 18;
/// Largest number of rows for that dispatch. If one thread walks all rows twice, it must stay below the 65535
/// iterations after which llvmpipe leaves a shader's loops (`LP_MAX_TGSI_LOOP_ITERATIONS`).
const SMALL_ROWS: usize = 1 << 14;
/// Vectors of a row that a thread of that dispatch reads at once: its text spells them out.
const UNROLLED: usize = 32;

/// Channels of a group up to which software drivers that compile fast have them spelt out.
const SPELT_OUT: usize = 12;

/// Extents shared by forward and backward.
pub(super) struct Dims {
    pub samples: usize,
    pub pixels: usize,
    pub c1: usize,
    pub c2: usize,
    pub groups: usize,
}

/// Distribution of a sample's rows over threads.
#[derive(Clone, Copy)]
pub(super) struct Blocks {
    /// Rows of a block.
    pub rows: usize,
    /// Blocks of a sample.
    pub count: usize,
}

impl Dims {
    pub fn new(x: &Shape, x2: Option<&Shape>, groups: usize) -> Result<Dims> {
        let (c1, c2) = (x.last(), x2.map_or(0, Shape::last));
        if x.len() < 2 || x2.is_some_and(|s| s.rows() != x.rows()) {
            let message = format!("x is {x}, x2 is {}", x2.map_or_else(|| "none".into(), Shape::to_string));
            return Err(Error::op("group_norm", message));
        }
        if groups == 0 || !(c1 + c2).is_multiple_of(groups) {
            return Err(Error::op("group_norm", format!("{groups} groups do not divide {} channels", c1 + c2)));
        }
        Ok(Dims { samples: x[0], pixels: x.rows().checked_div(x[0]).unwrap_or(0), c1, c2, groups })
    }

    pub fn channels(&self) -> usize {
        self.c1 + self.c2
    }

    /// Number of values of one sample's group.
    pub fn count(&self) -> usize {
        self.pixels * self.channels() / self.groups
    }

    /// Channels per thread: four if no vector reaches across the sources.
    pub fn width(&self) -> usize {
        if self.c1.is_multiple_of(4) && self.c2.is_multiple_of(4) { 4 } else { 1 }
    }

    /// Channels per vector of a kernel that walks each group by itself, if groups are small enough.
    pub fn small_group(&self) -> Option<usize> {
        let per = self.channels() / self.groups;
        let fours = [per, self.c1, self.c2].iter().all(|n| n.is_multiple_of(4));
        let width = if fours { 4 } else { 1 };
        let small = self.pixels <= SMALL_ROWS && self.count() <= SMALL_GROUP && per / width <= UNROLLED;
        small.then_some(width)
    }

    /// Channels per vector, and vectors of a row, of a kernel that walks each group by itself.
    pub fn walked(&self) -> (usize, usize) {
        let width = self.small_group().unwrap_or(1);
        (width, self.channels() / self.groups / width)
    }

    /// Whether that kernel has loops along a row, too: where drivers compile slowly, and for long rows on SwiftShader, which
    /// compiles thirty loads behind a branch for minutes.
    pub fn is_walked(&self, caps: &Caps) -> bool {
        caps.class == AdapterClass::Cpu && (caps.compiles_slowly() || self.channels() / self.groups > SPELT_OUT)
    }

    /// Threads of a kernel with such loops.
    pub fn walkers(&self, caps: &Caps) -> Team {
        // For each row the loops end once each, and begin anew. Threads that run together loop as long as the slowest: where
        // the sources' seam lies between them, along a row of each.
        let sources = if self.c2 > 0 { 2 } else { 1 };
        Team::choose(caps, self.pixels * (sources * self.walked().1 + 3))
    }

    /// Whether a driver that compiles slowly had better compute the whole of a group's result in one thread: another
    /// dispatch takes longer than to walk so small a group once more.
    pub fn walked_by_one_thread(&self, caps: &Caps) -> bool {
        caps.compiles_slowly() && self.small_group().is_some() && self.walkers(caps).threads == 1
    }

    /// Blocks for sums: about two square roots of the rows each, which keeps rounding and the second stage small.
    pub fn sum_blocks(&self) -> Blocks {
        self.blocks((2 * self.pixels.isqrt()).clamp(16, 256))
    }

    /// Blocks for kernels that write every element: rows that share the columns' constants, and enough threads for the
    /// adapter.
    pub fn apply_blocks(&self, caps: &Caps) -> Blocks {
        let threads = if caps.class == AdapterClass::Cpu { 1 << 8 } else { 1 << 14 };
        self.blocks((self.samples * self.pixels * self.channels() / self.width() / threads).clamp(4, 32))
    }

    fn blocks(&self, rows: usize) -> Blocks {
        let rows = rows.min(self.pixels).max(1);
        Blocks { rows, count: self.pixels.div_ceil(rows) }
    }

    /// Number of threads of a kernel over `blocks`.
    pub fn threads(&self, blocks: Blocks) -> usize {
        self.samples * blocks.count * self.channels() / self.width()
    }

    pub fn uniforms<'l, 'a>(&self, k: KernelLaunch<'l, 'a>, blocks: Blocks) -> KernelLaunch<'l, 'a> {
        let width = self.width();
        k.u32("samples", self.samples)
            .u32("rows", self.pixels)
            .u32("blocks", blocks.count)
            .u32("block", blocks.rows)
            .u32("columns", self.channels() / width)
            .u32("columns1", self.c1 / width)
            .u32("columns2", self.c2 / width)
            .u32("channels", self.channels())
            .u32("groups", self.groups)
            .u32("per", self.channels() / self.groups)
    }
}

impl GroupNorm {
    /// The template's values.
    pub(super) fn values<'l, 'a>(&self, k: KernelLaunch<'l, 'a>, d: &Dims, team: Team) -> KernelLaunch<'l, 'a> {
        k.value("W", d.width())
            .value("TEAM", team.threads)
            .value("WG", team.workgroup)
            .value("x2", self.x2)
            .value("silu", self.silu)
            .value("moments", false)
    }
}

/// The channels of both, side by side.
pub(super) fn joined(x: &Array, x2: Option<&Array>) -> Array {
    let Some(x2) = x2 else { return x.clone() };
    let (c1, c2) = (x.shape.last(), x2.shape.last());
    let mut data = Vec::with_capacity(x.data.len() + x2.data.len());
    for (a, b) in x.data.chunks(c1).zip(x2.data.chunks(c2)) {
        data.extend_from_slice(a);
        data.extend_from_slice(b);
    }
    Array::new(x.shape.with_last(c1 + c2), data)
}
