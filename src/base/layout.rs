//! Between PyTorch's channels-first layout and the channels-last one that the kernels read.

/// `[n, c, h, w]` -> `[n, h, w, c]`; also repacks convolution weights, `[out, in, kh, kw]` -> `[out, kh, kw, in]`.
/// `values` must hold `n * c * h * w` elements.
pub fn to_channels_last<T: Copy>(values: &[T], [n, c, h, w]: [usize; 4]) -> Vec<T> {
    transpose_planes(values, n, c, h * w)
}

/// `[n, h, w, c]` -> `[n, c, h, w]`, where the extents are given as `[n, c, h, w]`.
pub fn to_channels_first<T: Copy>(values: &[T], [n, c, h, w]: [usize; 4]) -> Vec<T> {
    transpose_planes(values, n, h * w, c)
}

/// Transposes each of `n` row-major `rows` x `columns` matrices.
fn transpose_planes<T: Copy>(values: &[T], n: usize, rows: usize, columns: usize) -> Vec<T> {
    debug_assert_eq!(values.len(), n * rows * columns);
    let mut out = values.to_vec();
    let size = (rows * columns).max(1);
    for (plane, to) in values.chunks_exact(size).zip(out.chunks_exact_mut(size)) {
        for column in 0..columns {
            for row in 0..rows {
                to[column * rows + row] = plane[row * columns + column];
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_move_last_and_back() {
        // n = 2, c = 3, h = 1, w = 2
        let first: Vec<u32> = (0..12).collect();
        let last = to_channels_last(&first, [2, 3, 1, 2]);
        assert_eq!(last, [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]);
        assert_eq!(to_channels_first(&last, [2, 3, 1, 2]), first);
    }

    #[test]
    fn nothing_stays_nothing() {
        assert!(to_channels_last::<f32>(&[], [0, 4, 2, 2]).is_empty());
    }
}
