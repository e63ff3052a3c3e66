//! Work over threads: rayon where there are threads, a plain loop on wasm32 and for work too small to share.

/// Below this many multiply-adds (or as long as that many) a loop stays on the caller's thread: waking another one costs
/// some microseconds.
pub const MIN_WORK: usize = 1 << 17;

/// The number of threads that work is spread over.
pub fn threads() -> usize {
    #[cfg(not(target_arch = "wasm32"))]
    return rayon::current_num_threads();
    #[cfg(target_arch = "wasm32")]
    return 1;
}

/// Whether `work` multiply-adds are worth more than one thread.
fn worth_it(work: usize) -> bool {
    work >= MIN_WORK && threads() > 1
}

/// The size of the pieces that `len` items are cut into: a few pieces a thread, multiples of `unit`; everything in one piece
/// when `work` (of all items) is small.
pub fn piece(len: usize, unit: usize, work: usize) -> usize {
    if !worth_it(work) {
        return len.max(1);
    }
    len.div_ceil(4 * threads()).next_multiple_of(unit).max(1)
}

/// Calls `f(i, piece)` for the i-th piece of `size` elements of `data` (the last may be shorter).
pub fn chunks_mut<T: Send>(data: &mut [T], size: usize, f: impl Fn(usize, &mut [T]) + Sync + Send) {
    if data.len() <= size {
        if !data.is_empty() {
            f(0, data);
        }
        return;
    }
    #[cfg(not(target_arch = "wasm32"))]
    {
        use rayon::prelude::*;
        data.par_chunks_mut(size).enumerate().for_each(|(i, piece)| f(i, piece));
    }
    #[cfg(target_arch = "wasm32")]
    data.chunks_mut(size).enumerate().for_each(|(i, piece)| f(i, piece));
}

/// Calls `f(i, piece of a, piece of b)` for the i-th pieces of `size_a` and `size_b` elements.
pub fn zip_chunks_mut<A: Send, B: Send>(
    a: &mut [A],
    size_a: usize,
    b: &mut [B],
    size_b: usize,
    f: impl Fn(usize, &mut [A], &mut [B]) + Sync + Send,
) {
    if a.len() <= size_a {
        if !a.is_empty() {
            f(0, a, b);
        }
        return;
    }
    #[cfg(not(target_arch = "wasm32"))]
    {
        use rayon::prelude::*;
        let pairs = a.par_chunks_mut(size_a).zip(b.par_chunks_mut(size_b));
        pairs.enumerate().for_each(|(i, (a, b))| f(i, a, b));
    }
    #[cfg(target_arch = "wasm32")]
    a.chunks_mut(size_a).zip(b.chunks_mut(size_b)).enumerate().for_each(|(i, (a, b))| f(i, a, b));
}

/// A matrix cut into blocks of columns: `blocks[i][row]` are the columns from `i * size` on of that row. `stride` is the
/// length of a stored row, `width` of it are columns. This is how threads write to disjoint columns without `unsafe`.
pub fn column_blocks<T>(matrix: &mut [T], stride: usize, width: usize, size: usize) -> Vec<Vec<&mut [T]>> {
    if width == 0 || matrix.is_empty() {
        return Vec::new();
    }
    let rows = matrix.len().div_ceil(stride);
    let mut blocks: Vec<Vec<&mut [T]>> = Vec::new();
    blocks.resize_with(width.div_ceil(size), || Vec::with_capacity(rows));
    for row in matrix.chunks_mut(stride) {
        let columns = row.len().min(width);
        for (block, columns) in blocks.iter_mut().zip(row[..columns].chunks_mut(size)) {
            block.push(columns);
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn column_blocks_cover_each_column_once() {
        let mut matrix = vec![0; 3 * 8];
        for (i, block) in column_blocks(&mut matrix, 8, 5, 2).into_iter().enumerate() {
            for (row, columns) in block.into_iter().enumerate() {
                for value in columns {
                    *value += 100 * (row + 1) + i;
                }
            }
        }
        assert_eq!(matrix[..8], [100, 100, 101, 101, 102, 0, 0, 0]);
        assert_eq!(matrix[16..], [300, 300, 301, 301, 302, 0, 0, 0]);
    }

    #[test]
    fn pieces_are_whole_units_and_small_work_is_one_piece() {
        assert_eq!(piece(1000, 8, 10), 1000);
        assert_eq!(piece(0, 8, 10), 1);
        // 1000 is a multiple of 8 too: true with one thread and with many.
        assert_eq!(piece(1000, 8, MIN_WORK) % 8, 0);
    }

    #[test]
    fn every_chunk_is_visited() {
        let (mut a, mut b) = (vec![0usize; 1003], vec![0usize; 2006]);
        chunks_mut(&mut a, 100, |i, piece| piece.iter_mut().for_each(|v| *v += i + 1));
        assert_eq!((a[0], a[999], a[1002]), (1, 10, 11));
        zip_chunks_mut(&mut a, 100, &mut b, 200, |i, a, b| {
            a.iter_mut().for_each(|v| *v = i);
            b.iter_mut().for_each(|v| *v = i);
        });
        assert_eq!((a[1002], b[2005], b[199], b[200]), (10, 10, 0, 1));
    }
}
