//! Images of several shapes, some with captions of their own.

use super::support::*;

#[test]
fn captions_and_buckets_train() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let pictures = at.join("images");
    std::fs::create_dir(&pictures).unwrap();
    for (name, width, height) in [("a", 90, 60), ("b", 60, 60), ("c", 91, 60), ("d", 60, 62)] {
        picture(&pictures.join(format!("{name}.png")), width, height);
    }
    std::fs::write(pictures.join("b.txt"), "a mscds cat\n asleep").unwrap();
    let train = "train --model {F}/sd2 --images images --resolution 64 --buckets --rank 2 --class-prompt cat --class-images {A}/subjects/dog";
    // Every image needs words.
    refused(at, &format!("{train} --out x.safetensors"), 2, &["a.png", "--prompt", "a.txt"]);
    let output =
        works(at, &format!("{train} --prompt cat! --out a.safetensors --batch 2 --steps 2 --crop random --flip"));
    let said = stderr(&output);
    assert!(said.contains("4 images at 80x48 (2), 64x64 (2), 2 prompts"), "{said}");
    // Square images with captions, the text encoder too.
    let square = train.replace("--buckets ", "");
    let said = stderr(&works(at, &format!("{square} --prompt cat! --out square.safetensors --text-encoder --steps 2")));
    assert!(said.contains("4 images at 64x64, 2 prompts"), "{said}");

    let said = stdout(&works(at, &format!("plan {train} --prompt cat!")));
    assert!(said.contains("peak memory") && said.contains("encoded images"), "{said}");
    let steps = square.replace("--resolution 64", "--resolution 96 --bucket-step 32");
    let said = stdout(&works(at, &format!("plan {steps} --prompt cat!")));
    assert!(said.contains("4 images at 128x64 (2), 96x96 (2)"), "{said}");
    let off = train.replace("--buckets", "--buckets --bucket-step off");
    refused(at, &format!("{off} --prompt cat! --out x.safetensors"), 2, &["--buckets", "--bucket-step"]);
    std::fs::write(pictures.join("a.txt"), [0xff, 0xfe, 0x00]).unwrap();
    refused(at, &format!("{train} --prompt cat! --out x.safetensors"), 1, &["a.txt", "not UTF-8"]);
    std::fs::write(pictures.join("a.txt"), "word ".repeat(10_000)).unwrap();
    refused(at, &format!("{train} --prompt cat! --out x.safetensors"), 1, &["a.txt", "no caption"]);
    std::fs::write(pictures.join("a.txt"), " \n").unwrap();
    refused(at, &format!("{train} --out x.safetensors"), 2, &["a.png", "--prompt"]);
}
