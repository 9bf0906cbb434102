//! The command line: arguments become a job of the library; stdout is data, stderr is progress.

mod args;
mod bench;
mod convert;
mod demo;
mod files;
mod forward;
mod generate;
mod info;
mod inspect;
mod lettering;
mod plan;
mod report;
mod stop;
mod table;
mod terminal;
mod train;
mod watch;

use std::process::ExitCode;

use args::{Command, Global};
use clap::Parser as _;
use portray::engine::{self, Engine, EngineOptions};
use portray::{Error, Result};

/// Parses the arguments, runs the command, and turns what came of it into an exit code: 0 done, 1 failed, 2 wrong use,
/// 130 interrupted.
pub fn main() -> ExitCode {
    terminal::quieten_wayland();
    let cli = match args::Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) if !e.use_stderr() => {
            // --help and --version are answers, not errors.
            let _ = terminal::data(e.render());
            return ExitCode::SUCCESS;
        }
        Err(e) => {
            terminal::complain(&args::one_line(&e));
            return ExitCode::from(2);
        }
    };
    let global = cli.global;
    let result = match cli.command {
        Command::Generate(args) => generate::run(&global, *args),
        Command::Train(args) => train::run(&global, *args),
        Command::Watch(args) => watch::run(&global, args),
        Command::Demo(args) => demo::run(&global, &args),
        Command::Plan(args) => plan::run(&global, &args),
        Command::Inspect(args) => inspect::run(&global, &args),
        Command::Convert(args) => convert::run(&global, &args),
        Command::Forward(args) => forward::run(&global, &args),
        Command::Info(args) => info::run(&global, &args),
        Command::Bench(args) => {
            bench::check(&args).and_then(|()| open(&global)).and_then(|engine| bench::run(&global, &engine, &args))
        }
    };
    match result {
        // Whoever read our output has had enough: that is no failure.
        _ if terminal::reader_left() => ExitCode::SUCCESS,
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            if let Error::Interrupted(_) = e {
                terminal::note(&terminal::one_line(&e.to_string()));
            } else {
                terminal::complain(&e.to_string());
            }
            ExitCode::from(e.exit_code())
        }
    }
}

/// Opens the adapter that the global options name.
fn open(global: &Global) -> Result<Engine> {
    // Without a cache folder nothing is remembered, and the usual kernels run.
    let variants = engine::cache_folder().ok().map(|cache| cache.join("variants"));
    let options = EngineOptions { adapter: global.adapter.clone(), variants, ..Default::default() };
    pollster::block_on(Engine::request(&options))
}
