//! LoRA files as we write them, loaded by the libraries that people use. Skipped, loudly, where those are not installed:
//! `pip install torch diffusers transformers peft`.

use std::path::{Path, PathBuf};
use std::process::Command;

use portray::io::{Checkpoint, LoraFile, LoraFormat};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden").join(name)
}

#[test]
fn diffusers_and_peft_load_what_is_written() {
    let dir = tempfile::tempdir().expect("a folder");
    for kind in ["sd2", "sd15"] {
        let modules = Checkpoint::open(fixture(kind)).expect("a model").modules();
        let lora = LoraFile::open(fixture(&format!("{kind}.lora-peft.safetensors")), Some(&modules)).expect("a LoRA");
        let mut command = Command::new("python3");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/load_lora.py");
        command.arg(script).arg(fixture(kind)).arg(fixture(&format!("{kind}.safetensors")));
        for (format, name) in [
            (LoraFormat::Diffusers, "diffusers.safetensors"),
            (LoraFormat::Peft, "peft.safetensors"),
            (LoraFormat::Kohya, "kohya.safetensors"),
            (LoraFormat::PeftFolder, "folder"),
        ] {
            let path = dir.path().join(format!("{kind}-{name}"));
            lora.write(&path, format).expect("a written LoRA");
            command.arg(path);
        }
        let output = match command.output() {
            Ok(output) => output,
            Err(e) => return eprintln!("SKIPPED: python3: {e}"),
        };
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.code() == Some(3) {
            return eprintln!("SKIPPED: {said}");
        }
        println!("{said}");
        assert!(output.status.success(), "{kind}: {said}\n{}", String::from_utf8_lossy(&output.stderr));
    }
}
