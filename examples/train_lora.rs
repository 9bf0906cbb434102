//! Trains a LoRA of the bundled model on the images of a folder:
//! `cargo run --release --example train_lora -- assets/subjects/cat "a mscds cat" "a cat"`

use portray::{Engine, EngineOptions, Event, Flow, TrainOptions};

const STEPS: usize = 300;
const RANK: usize = 8;
const LEARNING_RATE: f64 = 1e-3;
const CLASS_PICTURES: usize = 12;
const OUT: &str = "example.safetensors";

fn main() -> portray::Result<()> {
    let mut args = std::env::args().skip(1);
    let mut next = |default: &str| args.next().unwrap_or_else(|| default.into());
    let job = TrainOptions {
        images: Some(next("assets/subjects/cat").into()),
        prompt: Some(next("a mscds cat")),
        class_prompt: Some(next("a cat")),
        class_count: Some(CLASS_PICTURES),
        steps: Some(STEPS),
        rank: RANK,
        lr: Some(LEARNING_RATE),
        out: OUT.into(),
        force: true,
        ..TrainOptions::default()
    };
    let engine = pollster::block_on(Engine::request(&EngineOptions::default()))?;
    let mut listener = |event: Event| {
        match event {
            Event::Phase(phase) => eprintln!("\n{phase}"),
            Event::Step(step) => eprint!("\rstep {} of {}: loss {:.4}", step.step + 1, step.steps, step.loss),
            Event::Saved(path) => eprintln!("\nsaved {}", path.display()),
            _ => {}
        }
        Flow::Continue
    };
    pollster::block_on(engine.train(&job, &mut listener))?;
    Ok(())
}
