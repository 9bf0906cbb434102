//! Training killed without warning, and gone on with.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use super::support::*;

#[cfg(unix)]
#[test]
fn a_killed_training_resumes_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let train = "train --model {F}/sd2 --images {A}/subjects/cat --prompt cat --class-prompt dog --class-images {A}/subjects/dog \
                 --rank 2 --seed 3 --steps 9 --save-every 3 --lr 1e-3 --flip --crop random --offset-noise 0.1 --json";
    works(dir.path(), &format!("{train} --out whole.safetensors"));
    // Before the first checkpoint, in the middle between two, right after one, and twice in a row.
    for kills in [vec![1], vec![4], vec![2], vec![3, 7]] {
        for (nth, step) in kills.iter().enumerate() {
            let again = if nth > 0 { " --resume" } else { "" };
            let mut command = portray(dir.path());
            command.args(words(&format!("{train} --out parts.safetensors{again}"))).stdout(Stdio::piped());
            let mut child = command.stderr(Stdio::null()).spawn().unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            assert!(lines.any(|l| l.unwrap().contains(&format!("\"step\":{step},"))));
            child.kill().unwrap();
            assert!(!child.wait().unwrap().success());
            assert!(!dir.path().join("parts.safetensors").exists(), "killed at {kills:?}");
        }
        works(dir.path(), &format!("{train} --out parts.safetensors --resume"));
        let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
        assert_eq!(read("whole.safetensors"), read("parts.safetensors"), "killed at {kills:?}");
        refused(
            dir.path(),
            &format!("{train} --out parts.safetensors --resume"),
            1,
            &["parts.safetensors", "came to its end"],
        );
        std::fs::remove_file(dir.path().join("parts.safetensors")).unwrap();
    }
}

/// The same where moments are packed and the passes themselves update.
#[cfg(unix)]
#[test]
fn a_killed_fused_training_resumes_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let train = "train --model {F}/sd2 --images {A}/subjects/cat --prompt cat --method full --optimizer adamw8bit \
                 --fused-update --seed 3 --steps 6 --save-every 2 --json";
    works(dir.path(), &format!("{train} --out whole"));
    // Evaluated, it ends in the same bytes.
    let train = &format!("{train} --evaluate-every 2");
    let mut command = portray(dir.path());
    command.args(words(&format!("{train} --out parts"))).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|l| l.unwrap().contains("\"step\":3,")));
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success());
    refused(dir.path(), &format!("{train} --out parts --resume").replace("8bit", ""), 1, &["--optimizer"]);
    works(dir.path(), &format!("{train} --out parts --resume"));
    let read =
        |name: &str| std::fs::read(dir.path().join(name).join("unet/diffusion_pytorch_model.safetensors")).unwrap();
    assert_eq!(read("whole"), read("parts"));
    assert!(dir.path().join("parts.best/model_index.json").exists());
    refused(dir.path(), &format!("{train} --out other --accumulate 2"), 2, &["--fused-update", "--accumulate 2"]);
}
