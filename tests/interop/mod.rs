//! LoRA files as we write them, loaded by the libraries that people use. `cargo xtask test` runs it where
//! `pip install torch diffusers transformers peft` was; `PORTRAY_PYTHON` names another interpreter than `python3`.

use std::path::{Path, PathBuf};
use std::process::Command;

use portray::LoraFormat;
use portray::low_level::io::{Checkpoint, LoraFile};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// Writes the LoRAs of `kind` in every layout to `to`, and returns the script's arguments for them.
fn written(folder: &str, kind: &str, to: &Path) -> Vec<String> {
    let model = Checkpoint::open(fixture(folder).join(kind)).expect("a model");
    let mut words = Vec::new();
    // Attention layers of the UNet, and every layer of it with the text encoders.
    for (name, given) in [("lora", kind.to_owned()), ("lora-all", format!("{kind}-all"))] {
        let file = fixture(folder).join(format!("{given}.lora-peft.safetensors"));
        let mut lora = LoraFile::open(file, Some(&model.modules())).expect("a LoRA");
        lora.note_base(&model);
        words.push(format!("{name}="));
        for (format, ending) in [
            (LoraFormat::Diffusers, "diffusers.safetensors"),
            (LoraFormat::Peft, "peft.safetensors"),
            (LoraFormat::Kohya, "kohya.safetensors"),
            (LoraFormat::PeftFolder, "folder"),
        ] {
            let path = to.join(format!("{given}-{ending}"));
            lora.write(&path, format).expect("a written LoRA");
            words.push(path.display().to_string());
        }
    }
    words
}

#[test]
#[ignore = "needs diffusers and PEFT: cargo test --release --test cli -- --ignored interop"]
fn diffusers_and_peft_load_what_is_written() {
    let dir = tempfile::tempdir().expect("a folder");
    let python = std::env::var("PORTRAY_PYTHON").unwrap_or_else(|_| "python3".into());
    for (folder, kind) in [("golden", "sd2"), ("golden", "sd15"), ("xl", "xl")] {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/load_lora.py");
        let mut command = Command::new(&python);
        command.arg(script).arg(fixture(folder).join(kind)).arg(fixture(folder).join(format!("{kind}.safetensors")));
        let output = command.args(written(folder, kind, dir.path())).output().expect("python runs");
        let said = String::from_utf8_lossy(&output.stdout);
        println!("{said}");
        assert!(output.status.success(), "{kind}: {said}\n{}", String::from_utf8_lossy(&output.stderr));
    }
}
