//! A model in one file is the same model as its folder: the same latents and pictures, bit for bit.

use super::random_model::RandomModel;
use super::support::{refused, stderr, stdout, works};

#[test]
fn single_file_and_folder_give_the_same_latents() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    for name in ["tiny-sd1", "tiny-sd2"] {
        let model = RandomModel::named(name, 3).unwrap();
        model.write_folder(&at.join(name)).unwrap();
        model.write_file(&at.join(format!("{name}.safetensors"))).unwrap();
        // A first-generation file predicts noise; a second-generation one is asked below.
        let prediction = if name == "tiny-sd2" { "--prediction epsilon" } else { "" };
        let options = format!("--steps 2 --width 32 --height 24 {prediction}");
        for (model, out) in [(name.to_owned(), "a"), (format!("{name}.safetensors"), "b")] {
            let latents = format!("--latents-out {name}-{out}.safetensors --out {name}-{out}.png");
            let output = works(at, &format!("generate cat! --model {model} {options} {latents}"));
            assert!(!stderr(&output).contains("seems to predict"), "{}", stderr(&output));
        }
        let read = |file: String| std::fs::read(at.join(file)).unwrap();
        assert_eq!(read(format!("{name}-a.safetensors")), read(format!("{name}-b.safetensors")), "{name}");
    }
    // What the file does not say is seen from one prediction, and said.
    let output =
        works(at, "generate cat --model tiny-sd2.safetensors --steps 1 --width 32 --height 32 --out probed.png");
    assert!(stderr(&output).contains("tiny-sd2.safetensors seems to predict"), "{}", stderr(&output));

    let said = stdout(&works(at, "inspect tiny-sd2.safetensors"));
    assert!(said.contains("a single-file checkpoint") && said.contains("not said"), "{said}");
    std::fs::write(at.join("old.ckpt"), b"PK\x03\x04").unwrap();
    refused(at, "generate cat --model old.ckpt --out x.png", 1, &["old.ckpt", "Python pickle", ".safetensors"]);
    refused(at, "inspect old.ckpt", 1, &["old.ckpt", "Python pickle"]);
    refused(at, "generate cat --model tiny-sd2/unet --out x.png", 1, &["tiny-sd2/unet", "is one part of a model"]);
}
