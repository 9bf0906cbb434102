//! Memory placement of tensors with known lifetimes: greedy by size with offsets (Pisarchyk and Lee 2020, arXiv
//! 2001.03288), into chunks that fit a buffer.

/// Block to place: when it is alive (node positions, both included) and how large it is.
#[derive(Clone, Copy, Debug)]
pub struct Block {
    /// Position of the producer.
    pub first: usize,
    /// Position of the last reader.
    pub last: usize,
    /// Size, a multiple of the alignment.
    pub bytes: u64,
}

/// Position of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index of the chunk.
    pub chunk: usize,
    /// First byte in it.
    pub offset: u64,
}

/// Places every block so that blocks alive at the same time never overlap. Returns the places and the chunks' sizes;
/// no chunk exceeds `chunk_limit` unless a single block does.
pub fn place(blocks: &[Block], chunk_limit: u64) -> (Vec<Place>, Vec<u64>) {
    let mut order: Vec<usize> = (0..blocks.len()).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(blocks[i].bytes), blocks[i].first, i));
    let mut places = vec![Place { chunk: 0, offset: 0 }; blocks.len()];
    // Per chunk, what is placed already, by offset.
    let mut chunks: Vec<Vec<usize>> = Vec::new();
    let mut sizes: Vec<u64> = Vec::new();
    for i in order {
        let block = blocks[i];
        let mut found = None;
        for (c, placed) in chunks.iter().enumerate() {
            let offset = lowest_gap(blocks, &places, placed, block);
            if offset + block.bytes <= chunk_limit {
                found = Some(Place { chunk: c, offset });
                break;
            }
        }
        let place = found.unwrap_or_else(|| {
            chunks.push(Vec::new());
            sizes.push(0);
            Place { chunk: chunks.len() - 1, offset: 0 }
        });
        places[i] = place;
        let list = &mut chunks[place.chunk];
        let at = list.partition_point(|&j| places[j].offset <= place.offset);
        list.insert(at, i);
        sizes[place.chunk] = sizes[place.chunk].max(place.offset + block.bytes);
    }
    (places, sizes)
}

/// Finds the lowest offset at which `block` overlaps nothing that is alive with it; `placed` is sorted by offset.
fn lowest_gap(blocks: &[Block], places: &[Place], placed: &[usize], block: Block) -> u64 {
    let mut end = 0;
    for &j in placed {
        let other = blocks[j];
        if other.last < block.first || block.last < other.first {
            continue;
        }
        let start = places[j].offset;
        if start >= end + block.bytes {
            break;
        }
        end = end.max(start + other.bytes);
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::{CounterRng, Stream};

    const LIMIT: u64 = 64 * 256;

    /// Blocks of random sizes and lifetimes, some alive to the end, and now and then one larger than a chunk may be.
    fn random_blocks(seed: u64) -> Vec<Block> {
        let rng = CounterRng::new(seed, Stream::Bench);
        let below = |i: usize, what: u64, bound: u64| rng.below(i as u32, what, bound);
        let nodes = 1 + below(0, 0, 60) as usize;
        (1..=1 + below(0, 1, 90) as usize)
            .map(|i| {
                let first = below(i, 0, nodes as u64) as usize;
                let last = if below(i, 1, 8) == 0 { usize::MAX } else { first + below(i, 2, 9) as usize };
                let most = if below(i, 3, 30) == 0 { 90 } else { 1 << below(i, 3, 6) };
                Block { first, last, bytes: 256 * (1 + below(i, 4, most)) }
            })
            .collect()
    }

    /// Says what is wrong with where `blocks` lie in chunks of those `sizes`.
    fn fault(blocks: &[Block], places: &[Place], sizes: &[u64]) -> Option<String> {
        let end = |i: usize| places[i].offset + blocks[i].bytes;
        for i in 0..blocks.len() {
            if end(i) > sizes[places[i].chunk] {
                return Some(format!("block {i} ends behind its chunk"));
            }
            for j in 0..i {
                let alive = blocks[i].first <= blocks[j].last && blocks[j].first <= blocks[i].last;
                let meet = places[i].chunk == places[j].chunk && places[i].offset < end(j) && places[j].offset < end(i);
                if alive && meet {
                    return Some(format!("blocks {j} and {i} are alive together and overlap"));
                }
            }
        }
        for (chunk, &size) in sizes.iter().enumerate() {
            let inside = blocks.iter().zip(places).filter(|(_, p)| p.chunk == chunk).map(|(b, _)| b.bytes);
            if size > LIMIT.max(inside.max().unwrap_or(0)) {
                return Some(format!("chunk {chunk} takes {size} bytes"));
            }
        }
        let bound = blocks.iter().map(|b| alive_at(blocks, b.first)).max().unwrap_or(0);
        let total = sizes.iter().sum::<u64>();
        (total < bound).then(|| format!("{total} bytes for {bound} that are alive together"))
    }

    /// Bytes alive at a node.
    fn alive_at(blocks: &[Block], node: usize) -> u64 {
        blocks.iter().filter(|b| b.first <= node && node <= b.last).map(|b| b.bytes).sum()
    }

    #[test]
    fn blocks_alive_together_never_overlap() {
        let (mut taken, mut bounds) = (0, 0);
        for seed in 0..400 {
            let blocks = random_blocks(seed);
            let (places, sizes) = place(&blocks, LIMIT);
            assert_eq!(fault(&blocks, &places, &sizes), None, "seed {seed}: {blocks:?}");
            taken += sizes.iter().sum::<u64>();
            bounds += blocks.iter().map(|b| alive_at(&blocks, b.first)).max().unwrap_or(0);
        }
        // What lies apart for no reason would pass all the same.
        assert!(taken * 100 < bounds * 125, "{taken} bytes where {bounds} are alive");
    }

    #[test]
    fn a_wrong_place_is_seen() {
        let (mut seen, mut tried) = (0, 0);
        for seed in 0..50 {
            let blocks = random_blocks(seed);
            let (places, sizes) = place(&blocks, LIMIT);
            for i in 1..blocks.len() {
                let mut moved = places.clone();
                moved[i] = places[i - 1];
                let together = blocks[i].first <= blocks[i - 1].last && blocks[i - 1].first <= blocks[i].last;
                tried += usize::from(together);
                seen += usize::from(together && fault(&blocks, &moved, &sizes).is_some());
            }
        }
        assert!(tried > 100 && seen == tried, "{seen} of {tried}");
        let (block, places) = (Block { first: 0, last: 0, bytes: 512 }, [Place { chunk: 0, offset: 0 }]);
        assert!(fault(&[block], &places, &[256]).is_some());
        let twice = [Place { chunk: 0, offset: 0 }, Place { chunk: 0, offset: LIMIT }];
        let blocks = [Block { bytes: LIMIT, ..block }; 2];
        assert!(fault(&blocks, &twice, &[2 * LIMIT]).is_some(), "a chunk of two whole ones");
    }
}
