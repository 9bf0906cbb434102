//! Results stay on the host's device, and are what the command line makes.

use std::time::Duration;

use portray::{Budget, Engine, EngineOptions, Event, Flow, GenerateOptions, ModelOptions, SamplingOptions};

use super::common::inpainting_model;
use super::host::{Host, fixture, small_bundled_job, tiny, tiny_job};

/// What the engine makes on a device of its own, RGB.
fn plain(job: &GenerateOptions) -> Vec<u8> {
    let engine = pollster::block_on(Engine::request(&EngineOptions::default())).unwrap();
    let made = pollster::block_on(engine.generate(job, &mut |_| Flow::Continue)).unwrap();
    made.pictures[0].rgb.clone()
}

/// The largest difference of a channel.
fn difference(rgba: &[u8], rgb: &[u8]) -> u8 {
    assert_eq!(rgba.len() / 4, rgb.len() / 3);
    let pairs = rgba.chunks(4).zip(rgb.chunks(3)).flat_map(|(a, b)| (0..3).map(|i| a[i].abs_diff(b[i])));
    pairs.max().unwrap()
}

#[test]
fn the_result_is_a_texture_of_the_hosts_device_and_nothing_was_read_back() {
    let host = Host::modest();
    let mut work = host.engine.start_generate(small_bundled_job(3));
    let made = host.finish(&mut work, Budget::time(Duration::from_millis(20))).unwrap();
    assert_eq!(host.engine.gpu().readbacks(), 0);
    assert!(made.pictures[0].rgb.is_empty());
    let textures = work.pictures();
    assert_eq!(textures.len(), 1);
    let rgba = host.read(&textures[0]);
    let expected = plain(&small_bundled_job(3));
    assert!(rgba.chunks(4).all(|p| p[3] == 255));
    // Other limits and features may choose other kernels: rounding may differ by a step.
    assert!(difference(&rgba, &expected) <= 1);
    let inverted: Vec<u8> = expected.iter().map(|x| 255 - x).collect();
    assert!(difference(&rgba, &inverted) > 1);
    // Reading is counted where it happens.
    pollster::block_on(host.engine.generate(&tiny_job(), &mut |_| Flow::Continue)).unwrap();
    assert!(host.engine.gpu().readbacks() > 0);
}

#[test]
fn previews_are_painted_with_every_step() {
    let host = Host::shared();
    let job = tiny_job();
    let mut heard: Vec<Vec<u8>> = Vec::new();
    pollster::block_on(host.engine.generate(&job, &mut |event| {
        if let Event::Preview { rgb, .. } = event {
            heard.push(rgb);
        }
        Flow::Continue
    }))
    .unwrap();
    let mut work = host.engine.start_generate_with(tiny(&host.engine), job);
    let mut seen = Vec::new();
    loop {
        let done = work.step(Budget::dispatches(20)).unwrap();
        host.present();
        for event in work.events() {
            if let Event::Preview { rgb, step, width, height, .. } = event {
                assert!(rgb.is_empty());
                seen.push((step, width, height));
            }
        }
        // One dispatch at a time is slower than a step: the texture shows the last step told of.
        if let Some(step) = seen.last().map(|s| s.0).filter(|_| done.is_none()) {
            let texture = work.preview().unwrap();
            let rgba = host.read(&texture);
            assert!(difference(&rgba, &heard[step - 1]) <= 1, "step {step}");
        }
        if done.is_some() {
            break;
        }
    }
    assert_eq!(seen, [(1, 12, 10), (2, 12, 10), (3, 12, 10)]);
}

#[test]
fn an_inpainting_model_works_for_a_host() {
    let host = Host::shared();
    let folder = inpainting_model("sd15");
    let model = ModelOptions { model: Some(folder.path().to_owned()), ..Default::default() };
    let start = |name: &str| Some(fixture("../inpaint").join(name));
    let job = GenerateOptions { init: start("init.png"), mask: start("mask.png"), model, ..tiny_job() };
    let job = GenerateOptions { sampling: SamplingOptions { steps: Some(2), ..Default::default() }, ..job };
    let made = pollster::block_on(host.engine.generate(&job, &mut |_| Flow::Continue)).unwrap();
    let mut work = host.engine.start_generate(job);
    host.finish(&mut work, Budget::time(Duration::from_millis(20))).unwrap();
    let previews = work.events().filter(|event| matches!(event, Event::Preview { width: 9, height: 11, .. }));
    assert_eq!(previews.count(), 2, "previews show the latents' four channels");
    assert!(difference(&host.read(&work.pictures()[0]), &made.pictures[0].rgb) <= 1);
}
