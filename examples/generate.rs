//! Makes one image with the bundled model: `cargo run --release --example generate -- "a cat on the beach"`.

use portray::{Engine, EngineOptions, Event, Flow, GenerateOptions};

fn main() -> portray::Result<()> {
    let prompt = std::env::args().nth(1).unwrap_or_else(|| "a cat on the beach".into());
    let engine = pollster::block_on(Engine::request(&EngineOptions::default()))?;
    let job = GenerateOptions { prompts: vec![prompt], count: 1, ..GenerateOptions::default() };
    let mut listener = |event: Event| {
        if let Event::Progress { unit, done, total } = event {
            eprint!("\r{unit} {done} of {total}");
        }
        Flow::Continue
    };
    let made = pollster::block_on(engine.generate(&job, &mut listener))?;
    eprintln!();
    for picture in made.pictures {
        picture.write_png("example.png")?;
    }
    Ok(())
}
