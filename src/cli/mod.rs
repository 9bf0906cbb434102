//! The command line: arguments become a job of the library; stdout is data, stderr is progress.

mod args;
mod bench;
mod convert;
mod curves;
mod demo;
mod device;
mod embed;
mod evaluate;
mod files;
mod forward;
mod generate;
mod identifier;
mod info;
mod inspect;
mod lettering;
mod plan;
mod report;
mod stop;
mod table;
mod tensors;
mod terminal;
mod train;
mod watch;
mod words;

use std::path::Path;
use std::process::ExitCode;

use args::Command;
use clap::Parser as _;
use portray::{Error, Event};
use words::said;

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
            let refusal = args::refusal(&e, std::env::args_os());
            if std::env::args_os().any(|arg| arg == "--json") {
                terminal::tell(Error::argument(refusal.as_str()).to_json(&words::CommandLine));
            }
            terminal::complain(&refusal);
            return ExitCode::from(2);
        }
    };
    let global = cli.global;
    let result = run(&global, cli.command);
    if let Some(warning) = portray::low_level::io::files::unsynced() {
        report::Reporter::new(&global).hear(&Event::Warning(warning.into()));
    }
    match result {
        Ok(()) => ExitCode::from(u8::from(terminal::has_lost())),
        // Whoever read the answer has had enough: that is no failure.
        Err(Error::Interrupted { .. }) if terminal::reader_left() => ExitCode::SUCCESS,
        Err(e) => {
            if global.json {
                terminal::tell(e.to_json(&words::CommandLine));
            }
            match &e {
                Error::Interrupted { .. } => terminal::note(&terminal::one_line(&said(&e))),
                Error::File { path, .. } if Path::new(path).is_relative() && folder_is_gone() => {
                    terminal::complain(&format!(
                        "{}; the current folder is gone or closed to you: change to another, or give whole paths",
                        said(&e)
                    ))
                }
                _ => terminal::complain(&said(&e)),
            }
            ExitCode::from(e.exit_code())
        }
    }
}

/// Runs a command to its end.
fn run(global: &args::Global, command: Command) -> portray::Result<()> {
    match command {
        Command::Generate(args) => generate::run(global, *args),
        Command::Train(args) => train::run(global, *args),
        Command::Identifier(args) => identifier::run(global, *args),
        Command::Evaluate(args) => evaluate::run(global, *args),
        Command::Watch(args) => watch::run(global, args),
        Command::Demo(args) => demo::run(global, &args),
        Command::Plan(args) => plan::run(global, &args),
        Command::Inspect(args) => inspect::run(global, &args),
        Command::Convert(args) => convert::run(global, &args),
        Command::Forward(args) => forward::run(global, &args),
        Command::Embed(args) => embed::run(global, &args),
        Command::Info(args) => info::run(global, &args),
        Command::Bench(args) => bench::check(&args)
            .and_then(|()| device::open(global))
            .and_then(|engine| bench::run(global, &engine, &args)),
    }
}

/// Whether no path leads to the current folder, so that none that begins there is found.
fn folder_is_gone() -> bool {
    std::env::current_dir().and_then(|folder| folder.metadata()).is_err()
}
