//! Workgroup reduction: how many threads add up the items of one sum (`shaders/lib/team.wgsl`).

use crate::gpu::{AdapterClass, Caps};

/// Threads that share a sum, and how they are grouped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Team {
    /// Threads per sum: one, or a workgroup.
    pub threads: usize,
    /// Threads of a workgroup.
    pub workgroup: usize,
}

impl Team {
    /// Chooses the threads for sums of `items` items. On hardware a workgroup, if there are many items. Software
    /// drivers pay for barriers, so there one thread is as good, except for long sums: a kernel may walk its items
    /// three times, and llvmpipe leaves a shader's loops after 65535 iterations (`LP_MAX_TGSI_LOOP_ITERATIONS`).
    pub fn choose(caps: &Caps, items: usize) -> Team {
        match caps.class {
            AdapterClass::Cpu if items > 1 << 14 => Team { threads: 64, workgroup: 64 },
            AdapterClass::Cpu => Team { threads: 1, workgroup: 8 },
            AdapterClass::Gpu if items > 64 => Team { threads: 64, workgroup: 64 },
            AdapterClass::Gpu => Team { threads: 1, workgroup: 32 },
        }
    }

    /// Chooses the threads for sums over `rows` long rows: on hardware as many as a workgroup may have, if there are
    /// rows for them. Even of few rows each has a thread: one thread over all 64 rows of SD 1.5's smallest map took an H200
    /// 0.7 ms.
    pub fn of_rows(caps: &Caps, rows: usize) -> Team {
        match caps.class {
            AdapterClass::Gpu if rows >= 256 => Team { threads: 256, workgroup: 256 },
            AdapterClass::Gpu if rows >= 8 => Team { threads: 64, workgroup: 64 },
            _ => Team::choose(caps, rows),
        }
    }

    /// Number of workgroups for this many sums.
    pub fn workgroups(self, sums: usize) -> usize {
        if self.threads > 1 { sums } else { sums.div_ceil(self.workgroup) }
    }
}
