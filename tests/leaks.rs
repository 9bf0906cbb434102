//! What jobs leave behind in a host: nothing. A process of its own, for its memory is measured.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that unwraps is a test that fails")]

#[path = "embed/host.rs"]
#[allow(dead_code, reason = "the other tests' host")]
mod host;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::Duration;

use portray::low_level::ops::oracle::Random;
use portray::{Budget, Job, TrainOptions};

use host::{Host, fixture, tiny, tiny_job, tiny_options};

/// The system's allocator, and how many bytes of it Rust code holds.
struct Counting;

static HELD: AtomicI64 = AtomicI64::new(0);

// SAFETY: every call goes to `System` unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size() as i64, Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size() as i64, Relaxed);
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that Rust code and the driver hold, as glibc counts them.
///
/// It grows by hundreds of bytes where what is resident goes up and down by megabytes, more so on a busy machine.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn taken() -> i64 {
    // SAFETY: it takes nothing and returns numbers.
    let info = unsafe { libc::mallinfo2() };
    (info.uordblks + info.hblkhd) as i64
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn taken() -> i64 {
    HELD.load(Relaxed)
}

/// Bytes of the process's own memory that are in use: the above, code that drivers made, and what allocators keep.
fn resident() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<i64>().ok()).unwrap_or(0) * 1024
}

/// Bytes by which a run of jobs raises `values`, which were read after runs of equal length.
///
/// The median of the runs: an allocator or a driver's compiler takes one block of 12 or 16 MB at some
/// moment and keeps it, which raises one run; jobs that leave something behind raise every run.
fn growth(values: &[i64]) -> i64 {
    let mut steps: Vec<i64> = values.windows(2).map(|two| two[1] - two[0]).collect();
    steps.sort_unstable();
    steps[steps.len() / 2]
}

/// What a run of twenty jobs may add to what Rust code holds: 200 bytes each.
const HELD_GROWTH: i64 = 4 << 10;

/// What a run of twenty jobs may add to what the process holds: 1.6 kB each.
const TAKEN_GROWTH: i64 = 32 << 10;

/// What all runs together may add to resident memory, a third of a megabyte with each job: allocators take 13 MB at once.
const RESIDENT_IN_ALL: i64 = 64 << 20;

#[test]
fn growth_is_what_every_run_adds() {
    let mb = |values: [i64; 6]| values.map(|v| v << 20);
    assert_eq!(growth(&mb([234, 234, 250, 250, 262, 262])), 0, "blocks that were taken once");
    assert!(growth(&mb([234, 235, 236, 237, 238, 239])) > TAKEN_GROWTH, "50 kB with every job");
    assert!(growth(&mb([234, 250, 251, 252, 253, 254])) > TAKEN_GROWTH, "a block and a leak");
}

/// What all runs together may add to what Rust code holds: 1 kB with each job. Tables that wgpu keeps grow once, by 80 kB.
const HELD_IN_ALL: i64 = 180 << 10;

/// Steps of a whole `work`.
fn steps<T>(host: &Host, mut work: Job<T>) -> usize {
    let mut steps = 0;
    while work.step(Budget::dispatches(9)).unwrap().is_none() {
        steps += 1;
        host.present();
    }
    steps
}

/// Gives `work` up after so many steps, with the device at work.
fn give_up<T>(host: &Host, mut work: Job<T>, steps: usize) {
    for _ in 0..steps {
        if work.step(Budget::dispatches(9)).unwrap().is_some() {
            break;
        }
        let _ = host.device.poll(wgpu::PollType::Poll);
    }
}

#[test]
fn two_hundred_jobs_given_up_anywhere_leave_nothing() {
    let host = Host::generous();
    let model = tiny(&host.engine);
    let folder = tempfile::tempdir().unwrap();
    let picture = || host.engine.start_generate_with(model.clone(), tiny_job());
    let training = || {
        host.engine.start_train(TrainOptions {
            model: tiny_options(),
            replay: Some(fixture("sd2-train/replay.safetensors")),
            steps: Some(1),
            out: folder.path().join("lora.safetensors"),
            force: true,
            ..Default::default()
        })
    };
    let whole = [steps(&host, picture()), steps(&host, training())].map(|n| n as f64);
    let mut random = Random::new(5);
    let mut run = |jobs: usize| {
        for job in 0..jobs {
            let part = random.uniform();
            // One in ten is a training.
            match job % 10 {
                9 => give_up(&host, training(), (part * whole[1]) as usize),
                _ => give_up(&host, picture(), (part * whole[0]) as usize),
            }
        }
        host.present();
        // Buffers of the last job go when the device has seen that it is done with them.
        host.queue.submit([]);
        host.present();
        (host.engine.gpu().allocated_bytes().expect("a report"), HELD.load(Relaxed), taken(), resident())
    };
    let runs: Vec<_> = (0..10).map(|_| run(20)).collect();
    let [before, after] = [runs[0].0, runs[9].0];
    let held: Vec<i64> = runs.iter().map(|r| r.1).collect();
    let taken: Vec<i64> = runs.iter().map(|r| r.2).collect();
    let resident: Vec<i64> = runs.iter().map(|r| r.3).collect();
    assert!(after <= before, "{before} bytes were allocated on the adapter, {after} are");
    assert!(before < 1 << 20, "{before} bytes are allocated with no job there");
    assert!(growth(&held) < HELD_GROWTH, "bytes that are held after every twenty jobs: {held:?}");
    assert!(held[9] - held[0] < HELD_IN_ALL, "bytes that are held after every twenty jobs, in all: {held:?}");
    assert!(growth(&taken) < TAKEN_GROWTH, "bytes that are taken after every twenty jobs: {taken:?}");
    let more = resident[9] - resident[0];
    assert!(more < RESIDENT_IN_ALL, "resident bytes after every twenty jobs: {resident:?}");
    let mut work = picture();
    host.finish(&mut work, Budget::time(Duration::from_millis(50))).unwrap();
    assert!(host.engine.gpu().allocated_bytes().unwrap() > after, "the report does not see an image");
}
