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
