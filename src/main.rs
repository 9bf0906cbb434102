//! The `portray` command.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
