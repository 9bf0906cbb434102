//! What a caller answers to events, or asks of a job by the way: it is heard whenever it comes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use portray::{Budget, Error, Event, Flow, GenerateOptions, Picture, Result, TrainOptions, Trained};

use super::host::{Host, tiny, tiny_job, tiny_options};

/// A training on images, with a validation sample after every update.
fn training(folder: &Path) -> TrainOptions {
    TrainOptions {
        model: tiny_options(),
        images: Some(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("assets/subjects/cat")),
        prompt: Some("a cat".into()),
        steps: Some(3),
        sample_prompts: vec!["a cat".into(), "a dog".into()],
        sample_every: 1,
        out: folder.join("l.safetensors"),
        ..Default::default()
    }
}

/// Trains, and gives `answer` to the first event that `asks`, which is heard once; what came of it, and the events after it.
fn answered(job: &TrainOptions, answer: Flow, asks: impl Fn(&Event) -> bool) -> (Result<Trained>, Vec<Event>) {
    let host = Host::shared();
    let (mut asked, mut after) = (false, Vec::new());
    let result = pollster::block_on(host.engine.train(job, &mut |event| {
        let now = !asked && asks(&event);
        if asked {
            after.push(event);
        }
        asked |= now;
        if now { answer } else { Flow::Continue }
    }));
    assert!(asked, "nothing was asked");
    (result, after)
}

fn count(events: &[Event], kind: impl Fn(&Event) -> bool) -> usize {
    events.iter().filter(|event| kind(event)).count()
}

fn is_step(event: &Event) -> bool {
    matches!(event, Event::Step(_))
}

#[test]
fn a_stop_at_a_step_is_heard_though_samples_are_due() {
    let folder = tempfile::tempdir().unwrap();
    let job = training(folder.path());
    let (result, after) = answered(&job, Flow::Stop, is_step);
    assert!(matches!(&result, Err(Error::Interrupted { done: 1, total: 3, resumable: Some(_), .. })), "{result:?}");
    assert!(matches!(after.as_slice(), [Event::Saved(_)]), "{after:?}");
    assert!(folder.path().join("l.safetensors.state").is_dir());
}

#[test]
fn a_stop_while_samples_are_made_waits_for_none_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let sampled = |event: &Event| matches!(event, Event::Progress { unit: "sample step", .. });
    let (result, after) = answered(&training(folder.path()), Flow::Stop, sampled);
    assert!(matches!(result, Err(Error::Interrupted { .. })), "{result:?}");
    assert!(matches!(after.as_slice(), [Event::Saved(_)]), "{after:?}");
}

#[test]
fn a_stop_is_heard_at_whatever_event() {
    let folder = tempfile::tempdir().unwrap();
    let job = training(folder.path());
    for kind in [|e: &Event| matches!(e, Event::Note(_)), |e: &Event| matches!(e, Event::Phase(_))] {
        let (result, after) = answered(&job, Flow::Stop, kind);
        assert!(matches!(result, Err(Error::Interrupted { .. })), "{result:?}");
        assert_eq!(count(&after, is_step), 0);
    }
    assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none(), "nothing was trained, nothing is there");
}

#[test]
fn a_training_that_is_to_finish_does_its_first_update() {
    let folder = tempfile::tempdir().unwrap();
    let job = training(folder.path());
    let (result, after) = answered(&job, Flow::Finish, |event| matches!(event, Event::Phase(_)));
    assert_eq!(result.unwrap().steps, 1);
    assert_eq!(count(&after, is_step), 1);
    assert!(job.out.is_file());
}

/// Images of a job that is stopped when `done` of its steps are, and what came of it.
fn stopped_at(job: &GenerateOptions, done: usize) -> (Vec<Picture>, Result<usize>) {
    let host = Host::shared();
    let mut pictures = Vec::new();
    let made = pollster::block_on(host.engine.generate(job, &mut |event| match event {
        Event::Picture(picture) => {
            pictures.push(picture);
            Flow::Continue
        }
        Event::Progress { done: now, .. } if now == done => Flow::Stop,
        _ => Flow::Continue,
    }));
    (pictures, made.map(|made| made.pictures.len()))
}

#[test]
fn a_stopped_job_gives_the_pictures_that_are_sampled() {
    let job = GenerateOptions { count: 3, previews: false, ..tiny_job() };
    let rgb = |pictures: &[Picture]| pictures.iter().map(|p| p.rgb.clone()).collect::<Vec<_>>();
    let (whole, made) = stopped_at(&job, usize::MAX);
    assert_eq!(made.unwrap(), 3);
    let why = |result: Result<usize>| match result {
        Err(error @ Error::Interrupted { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let (none, made) = stopped_at(&job, 2);
    assert_eq!((none.len(), why(made)), (0, "interrupted".to_owned()));
    for done in [6, 7] {
        let (two, made) = stopped_at(&job, done);
        assert_eq!(why(made), "interrupted after image 2 of 3");
        assert_eq!(rgb(&two), rgb(&whole[..2]));
    }
    let (all, made) = stopped_at(&job, 9);
    assert_eq!(made.unwrap(), 3, "nothing was left to stop");
    assert_eq!(rgb(&all), rgb(&whole));
}

#[test]
fn a_host_that_stops_a_job_has_its_finished_pictures() {
    let host = Host::shared();
    let model = tiny(&host.engine);
    let mut work = host.engine.start_generate_with(model, GenerateOptions { count: 3, ..tiny_job() });
    let error = loop {
        match work.step(Budget::dispatches(100)) {
            Ok(done) => assert!(done.is_none(), "it was stopped"),
            Err(e) => break e,
        }
        if work.events().any(|event| matches!(event, Event::Progress { done: 4, .. })) {
            work.stop();
        }
        host.present();
    };
    assert!(matches!(error, Error::Interrupted { .. }), "{error}");
    assert_eq!(work.pictures().len(), 1);
}

#[test]
fn a_training_breathes_between_its_pictures() {
    let host = Host::shared();
    let folder = tempfile::tempdir().unwrap();
    let images = folder.path().join("images");
    std::fs::create_dir(&images).unwrap();
    let rgb: Vec<u8> = (0..400 * 400 * 3).map(|i| (i * i / 7) as u8).collect();
    for i in 0..8 {
        let picture = portray::low_level::io::Picture { width: 400, height: 400, rgb: rgb.clone() };
        portray::low_level::io::write_png(images.join(format!("{i}.png")), &picture, &[]).unwrap();
    }
    let job =
        TrainOptions { images: Some(images), steps: Some(1), sample_prompts: Vec::new(), ..training(folder.path()) };
    let mut work = host.engine.start_train(job);
    // Steps until `seen`; each is long over when an image is read.
    let mut steps_until = |seen: &dyn Fn(&Event) -> bool| {
        for steps in 0.. {
            if work.events().any(|event| seen(&event)) {
                return steps;
            }
            assert!(work.step(Budget::time(Duration::from_micros(100))).unwrap().is_none());
            host.present();
        }
        0
    };
    let opened = steps_until(&|event| matches!(event, Event::Note(text) if text.to_string().starts_with("8 images")));
    assert!(opened > 8, "{opened} steps");
}
