//! Work on several threads whose results are taken in order.

#[cfg(not(target_arch = "wasm32"))]
use std::sync::mpsc;
#[cfg(not(target_arch = "wasm32"))]
use std::thread::Builder;

/// What several threads may use at a time; in a page, which has one thread, anything.
#[cfg(not(target_arch = "wasm32"))]
pub trait Shared: Sync {}
#[cfg(not(target_arch = "wasm32"))]
impl<T: Sync + ?Sized> Shared for T {}
/// What several threads may use at a time; in a page, which has one thread, anything.
#[cfg(target_arch = "wasm32")]
pub trait Shared {}
#[cfg(target_arch = "wasm32")]
impl<T: ?Sized> Shared for T {}

/// Makes `make(0)`, `make(1)` … `make(count - 1)` on `threads` threads and gives the results to `take` on this one, in order.
/// Each thread is at most one result ahead of what was taken, so few of them are in memory at a time.
///
/// # Errors
/// The first of `take`'s; what was not begun by then is left.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn in_order<T: Send, E>(
    count: usize,
    threads: usize,
    make: impl Fn(usize) -> T + Sync,
    mut take: impl FnMut(T) -> Result<(), E>,
) -> Result<(), E> {
    let threads = threads.clamp(1, count.max(1));
    let make = &make;
    std::thread::scope(|scope| {
        let start = |first: usize| {
            let (give, results) = mpsc::sync_channel(1);
            let run = move || {
                let each = (first..count).step_by(threads);
                each.map(make).all(|result| give.send(result).is_ok())
            };
            let started = Builder::new().name(format!("portray-{first}")).spawn_scoped(scope, run);
            started.is_ok().then_some(results)
        };
        let results: Vec<_> = (0..threads).map(start).collect();
        (0..count).try_for_each(|i| {
            let made = results[i % threads].as_ref().and_then(|results| results.recv().ok());
            // Where there is no thread to be had, this one makes it.
            take(made.unwrap_or_else(|| make(i)))
        })
    })
}

/// Makes `make(0)`, `make(1)` … `make(count - 1)` and gives the results to `take`, in order.
#[cfg(target_arch = "wasm32")]
pub(crate) fn in_order<T, E>(
    count: usize,
    _threads: usize,
    make: impl Fn(usize) -> T,
    mut take: impl FnMut(T) -> Result<(), E>,
) -> Result<(), E> {
    (0..count).try_for_each(|i| take(make(i)))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    #[test]
    fn results_come_in_order_whoever_is_first() {
        for (count, threads) in [(0, 3), (1, 4), (7, 1), (50, 3), (8, 8), (5, 0)] {
            let mut taken = Vec::new();
            let make = |i: usize| {
                std::thread::sleep(std::time::Duration::from_micros((i * 7919 % 13) as u64 * 50));
                i * i
            };
            in_order(count, threads, make, |square| {
                taken.push(square);
                Ok::<(), ()>(())
            })
            .unwrap();
            assert_eq!(taken, (0..count).map(|i| i * i).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_error_ends_it() {
        let made = AtomicUsize::new(0);
        let make = |i: usize| {
            made.fetch_add(1, Relaxed);
            i
        };
        let ended = in_order(1000, 4, make, |i| if i < 10 { Ok(()) } else { Err(i) });
        assert_eq!(ended, Err(10));
        assert!(made.load(Relaxed) < 30);
    }
}
