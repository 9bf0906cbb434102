//! What jobs say of the kernels that they have compiled: all that their plans have, each once, and nothing the second time.

use std::path::{Path, PathBuf};

use portray::low_level::generate::plan_generate;
use portray::low_level::train::plan_train;
use portray::{
    Budget, Engine, EngineOptions, Event, Flow, GenerateOptions, ModelOptions, SamplingOptions, TrainOptions,
};

fn engine() -> Engine {
    pollster::block_on(Engine::request(&EngineOptions::default())).unwrap()
}

fn tiny() -> ModelOptions {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden/sd2");
    ModelOptions { model: Some(model), ..ModelOptions::default() }
}

fn picture() -> GenerateOptions {
    let sampling = SamplingOptions { steps: Some(2), width: Some(48), height: Some(40), ..SamplingOptions::default() };
    GenerateOptions { prompts: vec!["a dog".into()], model: tiny(), sampling, ..GenerateOptions::default() }
}

fn subject(name: &str) -> Option<PathBuf> {
    Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/subjects").join(name))
}

/// What was said, as (done, total), and whether any of it came behind the first image or update.
#[derive(Default)]
struct Told {
    counts: Vec<(usize, usize)>,
    ready_in_time: bool,
}

impl Told {
    fn hear(&mut self, event: &Event) -> Flow {
        match event {
            Event::Compiling { done, total } => self.counts.push((*done, *total)),
            Event::Picture(_) | Event::Step(_) => {
                self.ready_in_time = self.counts.last().is_none_or(|(done, total)| done == total);
            }
            _ => {}
        }
        Flow::Continue
    }

    /// Up to `total`, said for the first time before all are compiled. How many at a time depends on the machine.
    fn check(&self, total: usize) {
        let Told { counts, ready_in_time } = self;
        assert!(counts.first().is_some_and(|(done, _)| *done < total), "{counts:?}");
        assert!(counts.iter().all(|count| count.1 == total), "of {total}: {counts:?}");
        assert!(counts.is_sorted() && *ready_in_time, "{counts:?}");
        assert_eq!(counts.last(), Some(&(total, total)));
    }
}

#[test]
fn a_picture_s_kernels_are_counted_once() {
    let (engine, job) = (engine(), picture());
    let kernels = plan_generate(&job, engine.gpu().caps()).unwrap().kernels;
    let mut told = Told::default();
    pollster::block_on(engine.generate(&job, &mut |event| told.hear(&event))).unwrap();
    told.check(kernels);
    let mut again = Told::default();
    pollster::block_on(engine.generate(&job, &mut |event| again.hear(&event))).unwrap();
    assert_eq!(again.counts, []);
}

#[test]
fn a_job_that_a_host_drives_counts_too() {
    let (engine, job) = (engine(), picture());
    let kernels = plan_generate(&job, engine.gpu().caps()).unwrap().kernels;
    let mut told = Told::default();
    let mut work = engine.start_generate(job);
    loop {
        let done = work.step(Budget::dispatches(1000)).unwrap().is_some();
        work.events().for_each(|event| {
            told.hear(&event);
        });
        if done {
            break;
        }
        engine.device().poll(portray::wgpu::PollType::wait_indefinitely()).unwrap();
    }
    told.check(kernels);
}

#[test]
fn a_training_s_kernels_are_known_before_it_begins() {
    let engine = engine();
    let folder = tempfile::tempdir().unwrap();
    let job = TrainOptions {
        images: subject("cat"),
        prompt: Some("a sks cat".into()),
        class_images: subject("dog"),
        class_prompt: Some("a cat".into()),
        sample_prompts: vec!["a sks cat".into()],
        sample_every: 1,
        model: tiny(),
        steps: Some(1),
        out: folder.path().join("lora.safetensors"),
        ..TrainOptions::default()
    };
    let kernels = plan_train(&job, engine.gpu().caps()).unwrap().kernels;
    let mut told = Told::default();
    pollster::block_on(engine.train(&job, &mut |event| told.hear(&event))).unwrap();
    // The last ones are those of the sample's autoencoder.
    told.ready_in_time = true;
    told.check(kernels);
}
