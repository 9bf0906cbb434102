//! How large a register tile a contraction gets on a software driver.

use crate::gpu::Caps;

/// Outputs of one thread, and threads of a workgroup.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tile {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Threads.
    pub workgroup: usize,
}

impl Tile {
    /// Loads dominate there and spilled accumulators stay in the first-level cache, so a tile is as large as the driver
    /// compiles in reasonable time, but leaves enough tiles to fill every lane of a few cores.
    pub fn choose(caps: &Caps, m: usize, n: usize) -> Tile {
        const LANES: usize = 32;
        let (mut rows, mut columns) = (caps.register_tile / 16, 16);
        while rows > 1 && rows / 2 >= m {
            rows /= 2;
        }
        while columns > 4 && columns / 2 >= n {
            columns /= 2;
        }
        while m.div_ceil(rows) * n.div_ceil(columns) < LANES && rows * columns > 16 {
            if rows >= columns { rows /= 2 } else { columns /= 2 }
        }
        Tile { rows: rows.max(1), columns: columns.max(4), workgroup: 8 }
    }
}
