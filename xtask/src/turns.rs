//! Steps of two binaries in turns: while one computes a few, the other is stopped, so that both meet the machine as it is in the
//! same second. Runs after one another tell less: a machine that others use may change by a third in between.

use std::io::{BufRead as _, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Instant;

use crate::Failure;
use crate::compare::tells_of_a_step;

/// Turns of each binary.
const TURNS: usize = 60;
/// Steps of a turn that are timed.
const TIMED: usize = 3;
/// Steps of a turn before them: what was under way when the job was stopped.
const UNDER_WAY: usize = 2;
/// Steps before the first turn, in which kernels may still be compiled.
const WARM: usize = 6;

/// Steps that a job must have.
pub const STEPS: usize = WARM + TURNS * (TIMED + UNDER_WAY) + 2;

/// Runs the job of `args`, of at least [`STEPS`] steps and with `--json`, by both binaries in `folder`, and returns the seconds
/// of a step in each turn of the one and the neighbouring turn of the other.
///
/// # Errors
/// Where a binary cannot run, or ends before its last turn.
pub fn seconds(binaries: [&Path; 2], args: &[&str], folder: &Path) -> Result<Vec<[f64; 2]>, Failure> {
    let mut runs = [Run::start(binaries[0], args, folder)?, Run::start(binaries[1], args, folder)?];
    let mut turns = Vec::new();
    for turn in 0..TURNS {
        let mut seconds = [0.0; 2];
        // Who goes first takes turns, too.
        for which in [turn % 2, 1 - turn % 2] {
            seconds[which] = runs[which].turn()?;
        }
        turns.push(seconds);
    }
    Ok(turns)
}

/// A job, stopped between its turns.
struct Run {
    child: Child,
    events: Lines<BufReader<ChildStdout>>,
    name: String,
}

impl Run {
    fn start(binary: &Path, args: &[&str], folder: &Path) -> Result<Run, Failure> {
        let name = binary.display().to_string();
        let mut command = Command::new(binary);
        command.current_dir(folder).args(args).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|e| format!("cannot run {name}: {e}"))?;
        let events = child.stdout.take().ok_or_else(|| format!("{name} has no output"))?;
        let mut run = Run { child, events: BufReader::new(events).lines(), name };
        run.steps(WARM)?;
        run.signal(libc::SIGSTOP)?;
        Ok(run)
    }

    /// Goes on for a turn, and returns the seconds of a step.
    fn turn(&mut self) -> Result<f64, Failure> {
        self.signal(libc::SIGCONT)?;
        self.steps(UNDER_WAY)?;
        let began = Instant::now();
        self.steps(TIMED)?;
        let seconds = began.elapsed().as_secs_f64() / TIMED as f64;
        self.signal(libc::SIGSTOP)?;
        Ok(seconds)
    }

    /// Waits until so many more steps are done.
    fn steps(&mut self, count: usize) -> Result<(), Failure> {
        let told = self.events.by_ref().map_while(Result::ok).filter(|line| tells_of_a_step(line)).take(count).count();
        if told == count { Ok(()) } else { Err(format!("{} ended before its last turn", self.name).into()) }
    }

    fn signal(&self, signal: libc::c_int) -> Result<(), Failure> {
        // SAFETY: the process is our child, which nobody has waited for.
        if unsafe { libc::kill(self.child.id() as libc::pid_t, signal) } == 0 {
            return Ok(());
        }
        Err(format!("{}: {}", self.name, std::io::Error::last_os_error()).into())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // A failure: it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_timed_and_early_ends_are_told() {
        let script = |steps: usize| {
            let step = r#"echo '{"event":"step"}'"#;
            format!("i=0; while [ $i -lt {steps} ]; do i=$((i+1)); {step}; done")
        };
        let (folder, shell) = (std::env::temp_dir(), Path::new("/bin/sh"));
        let turns = seconds([shell, shell], &["-c", &script(STEPS)], &folder).ok().expect("turns");
        assert_eq!(turns.len(), TURNS);
        assert!(turns.iter().flatten().all(|seconds| *seconds >= 0.0));
        let early = seconds([shell, shell], &["-c", &script(WARM + 7)], &folder);
        assert!(early.is_err_and(|failure| failure.message == "/bin/sh ended before its last turn"));
    }
}
