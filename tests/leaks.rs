//! What jobs leave behind in a host: nothing. A process of its own, for its memory is measured.

#[path = "embed/host.rs"]
#[allow(dead_code, reason = "the other tests' host")]
mod host;

use std::time::Duration;

use portray::gpu::Budget;
use portray::ops::oracle::Random;

use host::{Host, tiny, tiny_job};

/// Bytes of the process's own memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

#[test]
fn two_hundred_jobs_given_up_anywhere_leave_nothing() {
    let host = Host::generous();
    let model = tiny(&host.engine);
    let start = || host.engine.start_generate_with(model.clone(), tiny_job());
    let mut whole = 0;
    let mut work = start();
    while work.step(Budget::dispatches(9)).unwrap().is_none() {
        whole += 1;
        host.present();
    }
    drop(work);
    let mut random = Random::new(5);
    let mut run = |jobs: usize| {
        for _ in 0..jobs {
            let mut work = start();
            for _ in 0..(random.uniform() * whole as f64) as usize {
                if work.step(Budget::dispatches(9)).unwrap().is_some() {
                    break;
                }
                let _ = host.device.poll(wgpu::PollType::Poll);
            }
        }
        host.present();
        // Buffers of the last job go when the device has seen that it is done with them.
        host.queue.submit([]);
        host.present();
        (host.engine.gpu().allocated_bytes().expect("a report"), resident())
    };
    let (before, host_before) = run(20);
    let (after, host_after) = run(180);
    assert!(after <= before, "{before} bytes were allocated on the adapter, {after} are");
    assert!(before < 1 << 20, "{before} bytes are allocated with no job there");
    // An allocator keeps some of what it had.
    assert!(host_after < host_before + (8 << 20), "the host had {host_before} bytes, it has {host_after}");
    let mut work = start();
    host.finish(&mut work, Budget::time(Duration::from_millis(50))).unwrap();
    assert!(host.engine.gpu().allocated_bytes().unwrap() > after, "the report does not see a picture");
}
