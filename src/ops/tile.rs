//! Tiles of a contraction, chosen by adapter class, shape and measurement.

use crate::gpu::{AdapterClass, Caps, Variants};

/// Piece of a result that a thread or workgroup computes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tile {
    /// Rows of the result that one unit covers.
    pub rows: usize,
    /// Columns of the result that one unit covers.
    pub columns: usize,
    /// Units in a workgroup: threads with a tile of their own, or 1 where the workgroup shares one.
    pub units: usize,
    /// A thread's columns come in fours.
    pub fours: bool,
    /// Parts of the sum (split-K).
    pub splits: usize,
    /// Template values.
    pub values: Vec<(&'static str, usize)>,
    /// Workgroup memory or registers only.
    pub class: AdapterClass,
}

/// Sizes of a contraction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    /// Independent products (taps, for a weight gradient).
    pub batch: usize,
    /// Rows.
    pub m: usize,
    /// Columns (of each half, if `pair`).
    pub n: usize,
    /// Terms of each sum.
    pub k: usize,
    /// Each result comes from two columns.
    pub pair: bool,
    /// The sum may be split (split-K).
    pub splittable: bool,
    /// Rows are picked through a convolution's window, which takes registers.
    pub window: bool,
}

impl Tile {
    /// Chooses the tile for `e` by cost, within what the adapter's variant of `gemm` allows; see [`super::variants`].
    pub fn choose(caps: &Caps, variants: &Variants, e: Extent) -> Tile {
        let variant = variants.get("gemm");
        match caps.class {
            AdapterClass::Cpu => {
                Tile::registers(caps, e, if variant == Some("thread") { 0 } else { caps.subgroup as usize })
            }
            AdapterClass::Gpu => {
                let enough = variant.and_then(|v| v.strip_prefix("workgroups-")).and_then(|n| n.parse().ok());
                Tile::shared(e, enough.unwrap_or(ENOUGH))
            }
        }
    }

    /// Number of units that cover the result, and how many lie along its rows and its columns.
    pub fn counts(&self, e: Extent) -> (usize, usize, usize) {
        let (m, n) = (e.m.div_ceil(self.rows), e.n.div_ceil(self.columns));
        (m * n * e.batch * self.splits, m, n)
    }

    /// On software drivers a load of a vector by a group of lanes costs about as much as 70 FMAs (5 on SwiftShader), so
    /// the cheapest tile is the one with the fewest loads; measured within 20 % of this over the shapes of a small
    /// model.
    fn registers(caps: &Caps, e: Extent, subgroup: usize) -> Tile {
        let pair = 1 + usize::from(e.pair);
        let fma_per_load = if caps.register_tile >= 256 { 70.0 } else { 5.0 };
        let mut best = (f64::INFINITY, Tile::thread(4, 4, pair));
        let mut offer = |groups: usize, loads: usize, outputs: usize, tile: Tile| {
            let cost = loads as f64 + outputs as f64 / fma_per_load;
            // Short of cores a larger tile is still cheaper than an idle core.
            let turns = (groups as f64 / caps.cores as f64).max(1.0);
            if cost * turns < best.0 {
                best = (cost * turns, tile);
            }
        };
        let lanes = subgroup;
        if lanes == 0 {
            for rows in [1, 2, 4, 8, 16] {
                for columns in [4, 8, 16] {
                    if rows * columns <= caps.register_tile && (!e.pair || columns >= 8) {
                        let tile = Tile::thread(rows, columns, pair);
                        let groups = tile.counts(e).0.div_ceil(8);
                        offer(groups, rows + columns, rows * columns, tile);
                    }
                }
            }
            return best.1;
        }
        // Every tile is a kernel more to compile, so those that hardly gain over another are not offered.
        let columns: &[usize] = if e.pair { &[8] } else { &[1, 2, 4, 8] };
        for &columns in columns {
            let rows: &[usize] = match columns {
                1 => &[8, 16, 32],
                _ if e.pair => &PAIR_ROWS,
                _ => &[8, 16, 32, 64],
            };
            for &rows in rows {
                if rows * columns <= 2 * caps.register_tile {
                    let tile = Tile::subgroup(lanes, rows, columns, pair);
                    offer(tile.counts(e).0, rows / lanes + columns, rows * columns, tile);
                }
            }
        }
        best.1
    }

    fn thread(rows: usize, columns: usize, pair: usize) -> Tile {
        Tile {
            rows,
            columns: columns / pair,
            units: 8,
            fours: (columns / pair).is_multiple_of(4),
            splits: 1,
            values: vec![("TM", rows), ("TN", columns), ("WG", 8), ("SG", 0)],
            class: AdapterClass::Cpu,
        }
    }

    fn subgroup(lanes: usize, rows: usize, columns: usize, pair: usize) -> Tile {
        Tile {
            rows,
            columns: columns / pair * lanes,
            units: 1,
            fours: (columns / pair).is_multiple_of(4),
            splits: 1,
            values: vec![("TM", rows), ("TN", columns), ("WG", lanes), ("SG", lanes)],
            class: AdapterClass::Cpu,
        }
    }

    /// Workgroup-memory tiles: the largest that still gives a large GPU enough workgroups; where none does, the
    /// smallest, and the sum is cut into parts. Figures of each on RDNA2 are in CONTRIBUTING.md.
    fn shared(e: Extent, enough: usize) -> Tile {
        let sizes: &[[usize; 4]] = if e.n <= 16 && !e.pair {
            &[[64, 16, 4, 4]]
        } else if e.m <= 16 && !e.pair {
            &[[16, 64, 4, 4]]
        } else if e.window {
            &[[64, 64, 8, 8], [64, 64, 4, 8], [32, 64, 4, 8]]
        } else {
            &[[128, 64, 8, 8], [64, 64, 8, 8], [64, 64, 4, 8], [32, 64, 4, 8]]
        };
        let tile = |&[bm, bn, tm, tn]: &[usize; 4]| Tile {
            rows: bm,
            columns: if e.pair { bn / 2 } else { bn },
            units: 1,
            fours: true,
            splits: 1,
            values: vec![("BM", bm), ("BN", bn), ("BK", STEP), ("TM", tm), ("TN", tn)],
            class: AdapterClass::Gpu,
        };
        let mut tiles = sizes.iter().map(tile);
        if let Some(tile) = tiles.find(|t| t.counts(e).0 >= enough) {
            return tile;
        }
        let mut tile = tile(sizes.last().unwrap_or(&[32, 64, 4, 8]));
        if e.splittable {
            // Parts of at least 256 terms, so that writing and adding them stays small.
            let wanted = (2 * enough).div_ceil(tile.counts(e).0.max(1));
            tile.splits = wanted.min(e.k / 256).clamp(1, 32);
        }
        tile
    }
}

/// Rows of the tiles of pairs that a subgroup of a software driver computes.
pub(super) const PAIR_ROWS: [usize; 2] = [8, 64];

/// Workgroups that fill a large GPU.
const ENOUGH: usize = 96;

/// Terms that a workgroup-memory tile takes at a time.
pub(super) const STEP: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(m: usize, n: usize, k: usize) -> Extent {
        Extent { batch: 1, m, n, k, pair: false, splittable: true, window: false }
    }

    #[test]
    fn software_tiles_grow_with_the_work() {
        let mut caps = Caps::webgpu_defaults(AdapterClass::Cpu);
        assert_eq!(
            Tile::choose(&caps, &Variants::default(), extent(768, 768, 768)).values[..2],
            [("TM", 16), ("TN", 16)]
        );
        caps.subgroup = 8;
        assert_eq!(
            Tile::choose(&caps, &Variants::default(), extent(768, 768, 768)).values[..2],
            [("TM", 64), ("TN", 8)]
        );
        let thin = Tile::choose(&caps, &Variants::default(), extent(256, 8, 128));
        assert_eq!(thin.values[1], ("TN", 1), "eight columns are one a lane");
    }

    #[test]
    fn deep_sums_over_few_results_are_split() {
        let caps = Caps::webgpu_defaults(AdapterClass::Gpu);
        assert_eq!(Tile::choose(&caps, &Variants::default(), extent(4096, 1280, 320)).splits, 1);
        let deep = Tile::choose(&caps, &Variants::default(), extent(64, 1280, 11520));
        assert!(deep.splits > 1, "64 x 1280 x 11520 fills 40 workgroups only");
        let whole = Tile::choose(&caps, &Variants::default(), Extent { splittable: false, ..extent(64, 1280, 11520) });
        assert_eq!(whole.splits, 1);
    }

    #[test]
    fn variants_narrow_the_choice() {
        let variant = |v: &str| Variants { chosen: [("gemm".to_owned(), v.to_owned())].into() };
        let mut caps = Caps::webgpu_defaults(AdapterClass::Cpu);
        caps.subgroup = 8;
        assert_eq!(
            Tile::choose(&caps, &variant("thread"), extent(768, 768, 768)).values[..2],
            [("TM", 16), ("TN", 16)]
        );
        let caps = Caps::webgpu_defaults(AdapterClass::Gpu);
        let few = Tile::choose(&caps, &variant("workgroups-32"), extent(512, 512, 64));
        let many = Tile::choose(&caps, &variant("workgroups-384"), extent(512, 512, 64));
        assert!(few.rows * few.columns > many.rows * many.columns);
    }

    #[test]
    fn counts_cover_the_result() {
        let caps = Caps::webgpu_defaults(AdapterClass::Gpu);
        for (m, n) in [(1, 1), (65, 63), (1000, 17), (17, 1000)] {
            let e = extent(m, n, 100);
            let tile = Tile::choose(&caps, &Variants::default(), e);
            let (total, rows, columns) = tile.counts(e);
            assert!(rows * tile.rows >= m && columns * tile.columns >= n);
            assert_eq!(total, rows * columns * tile.splits);
        }
    }
}
