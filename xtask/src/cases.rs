//! Test programs: what fails is shown once a program has ended, and how long each test took is kept.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use crate::steps::Outcome;

/// How many of the slowest are printed.
const SHOWN: usize = 10;

/// A program that cargo built of a package's tests.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub struct Program {
    path: PathBuf,
}

impl Program {
    /// `ops` for `target/release/deps/ops-0123456789abcdef`.
    pub fn name(&self) -> &str {
        let stem = self.path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        stem.rsplit_once('-').map_or(stem, |(name, _)| name)
    }

    /// Runs it with `args` of libtest.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.path);
        // How long a test takes is told to those who may use what is not yet stable; the sources that it tests may not.
        command.args(["-Z", "unstable-options", "--report-time"]).args(args).env("RUSTC_BOOTSTRAP", "1");
        if std::env::var_os("XDG_RUNTIME_DIR").is_none() {
            command.env("XDG_RUNTIME_DIR", std::env::temp_dir());
        }
        command
    }
}

/// The test programs among the messages of `cargo test --no-run --message-format json-render-diagnostics`.
pub fn programs(messages: &str) -> Vec<Program> {
    let tests = messages.lines().filter(|line| line.contains(r#""test":true},"features""#));
    let paths = tests.filter_map(|line| line.split_once(r#""executable":""#)?.1.split_once('"'));
    paths.map(|(path, _)| Program { path: Path::new(&path.replace(r"\\", r"\")).to_owned() }).collect()
}

/// Seconds of every test that ran, with its name.
#[derive(Default)]
pub struct Times(Mutex<Vec<(f64, String)>>);

impl Times {
    /// Runs `command`, whose tests are counted as those of `what`; at its end, passes on what is no test that went well.
    pub fn of(&self, what: &str, command: &mut Command) -> Outcome {
        let mut child = match command.stdout(Stdio::piped()).spawn() {
            Ok(child) => child,
            Err(e) => {
                eprintln!("cannot run {what}: {e}");
                return Outcome::Failed;
            }
        };
        let (mut said, mut times) = (format!("{what}\n"), Vec::new());
        for line in child.stdout.take().into_iter().flat_map(|out| BufReader::new(out).lines().map_while(Result::ok)) {
            let test = timed(&line);
            if let Some((seconds, name, _)) = test {
                times.push((seconds, format!("{what}: {name}")));
            }
            if test.is_some_and(|(.., passed)| !passed) || line.ends_with("has been running for over 60 seconds") {
                // Even where the program never ends.
                println!("{what}: {line}");
            } else if !line.is_empty() && test.is_none() {
                said += &line;
                said.push('\n');
            }
        }
        // In one piece: others are running beside it.
        print!("{said}");
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(times);
        if child.wait().is_ok_and(|status| status.success()) { Outcome::Passed } else { Outcome::Failed }
    }

    /// Prints the slowest.
    pub fn print(self) {
        let mut times = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        times.sort_by(|a, b| b.0.total_cmp(&a.0));
        println!("\n{:>8}  the slowest of {} tests", "seconds", times.len());
        for (seconds, name) in times.iter().take(SHOWN) {
            println!("{seconds:>8.1}  {name}");
        }
    }
}

/// Seconds, name, and whether it passed, if `line` is a test's result: libtest's `test NAME ... ok <1.234s>`, or
/// `✔ NAME (1234.5ms)` of Node.js.
fn timed(line: &str) -> Option<(f64, &str, bool)> {
    if let Some(result) = line.strip_prefix("test ") {
        let (name, result) = result.rsplit_once(" ... ")?;
        let (result, seconds) = result.split_once(" <")?;
        return Some((seconds.strip_suffix("s>")?.parse().ok()?, name, result == "ok"));
    }
    let (result, passed) =
        line.strip_prefix("✔ ").map(|rest| (rest, true)).or(line.strip_prefix("✖ ").map(|r| (r, false)))?;
    let (name, milliseconds) = result.rsplit_once(" (")?;
    Some((milliseconds.strip_suffix("ms)")?.parse::<f64>().ok()? / 1e3, name, passed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_tests_are_told_from_other_lines() {
        assert_eq!(timed("test a::b ... ok <1.500s>"), Some((1.5, "a::b", true)));
        assert_eq!(timed("test a::b ... FAILED <0.250s>"), Some((0.25, "a::b", false)));
        assert_eq!(timed("✔ page: one (of two) (1500.0ms)"), Some((1.5, "page: one (of two)", true)));
        assert_eq!(timed("✖ pages (20.5ms)"), Some((0.0205, "pages", false)));
        let others = ["test a::b ... ignored, it needs PEFT", "test a has been running for over 60 seconds", "✔ b"];
        assert!(others.into_iter().all(|line| timed(line).is_none()));
    }

    #[test]
    fn test_programs_are_found_among_what_cargo_says() {
        let said = |name: &str, test: bool, executable: &str| {
            format!(
                r#"{{"target":{{"name":"{name}","test":true}},"profile":{{"test":{test}}},"features":[],"executable":{executable}}}"#
            )
        };
        let built = [
            said("ops", true, r#""/t/ops-0a1b""#),
            said("portray", false, r#""/t/portray""#),
            said("half", false, "null"),
        ];
        let found = programs(&built.join("\n"));
        assert_eq!(found.iter().map(Program::name).collect::<Vec<_>>(), ["ops"]);
    }
}
