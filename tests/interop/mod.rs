//! LoRA files as we write them, loaded by the libraries that people use. `cargo xtask test` runs it where
//! `pip install torch diffusers transformers peft` was; `PORTRAY_PYTHON` names another interpreter than `python3`.

use std::path::{Path, PathBuf};
use std::process::Command;

use portray::LoraFormat;
use portray::io::{Checkpoint, LoraFile};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

#[test]
#[ignore = "needs diffusers and PEFT: cargo test --release --test cli -- --ignored interop"]
fn diffusers_and_peft_load_what_is_written() {
    let dir = tempfile::tempdir().expect("a folder");
    let python = std::env::var("PORTRAY_PYTHON").unwrap_or_else(|_| "python3".into());
    for (folder, kind, layout) in
        [("golden", "sd2", "peft"), ("golden", "sd15", "peft"), ("xl", "xl", "peft"), ("xl", "ssd", "kohya")]
    {
        let model = Checkpoint::open(fixture(folder).join(kind)).expect("a model");
        // Attention layers of the UNet, and every layer of it with the text encoders.
        for (name, given) in [("lora", kind.to_owned()), ("lora-all", format!("{kind}-all"))] {
            let file = fixture(folder).join(format!("{given}.lora-{layout}.safetensors"));
            let mut lora = LoraFile::open(file, Some(&model.modules())).expect("a LoRA");
            lora.note_base(&model);
            let mut command = Command::new(&python);
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/load_lora.py");
            let values = fixture(folder).join(format!("{kind}.safetensors"));
            command.arg(script).arg(fixture(folder).join(kind)).arg(values).arg(name);
            for (format, ending) in [
                (LoraFormat::Diffusers, "diffusers.safetensors"),
                (LoraFormat::Peft, "peft.safetensors"),
                (LoraFormat::Kohya, "kohya.safetensors"),
                (LoraFormat::PeftFolder, "folder"),
            ] {
                let path = dir.path().join(format!("{given}-{ending}"));
                lora.write(&path, format).expect("a written LoRA");
                command.arg(path);
            }
            let output = command.output().expect("python runs");
            let said = String::from_utf8_lossy(&output.stdout);
            println!("{said}");
            assert!(output.status.success(), "{given}: {said}\n{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}
