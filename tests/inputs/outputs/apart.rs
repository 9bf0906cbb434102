//! Outputs that are one place, and outputs that are inputs.

use super::super::support::*;
use super::{accepted, home, refused_early};

#[test]
fn n05_two_outputs_of_one_name() {
    let home = home();
    let dir = home.path();
    let generate = "generate x --model {F}/sd2 --steps 1";
    for (out, latents) in [
        ("same.png", "same.png"),
        ("same.png", "./same.png"),
        ("pics/../same.png", "same.png"),
        ("new", "new/portray-0.png"),
        ("new", "new"),
        ("new/a.png", "new"),
    ] {
        let line = format!("{generate} --out {out} --latents-out {latents}");
        refused_early(dir, &line, &["--out", "--latents-out"]);
        refused_early(dir, &format!("{line} --force"), &["--out", "--latents-out"]);
    }
    refused_early(dir, &format!("{generate} --latents-out portray-0.png --force"), &["--latents-out"]);
    accepted(dir, &format!("{generate} --out a.png --latents-out a.safetensors"));
}

#[cfg(unix)]
#[test]
fn kind_two_outputs_of_one_name_through_links() {
    let home = home();
    let dir = home.path();
    std::os::unix::fs::symlink("later.png", dir.join("a.png")).unwrap();
    std::os::unix::fs::symlink(".", dir.join("here")).unwrap();
    let generate = "generate x --model {F}/sd2 --steps 1 --force";
    refused_early(dir, &format!("{generate} --out a.png --latents-out later.png"), &["--latents-out"]);
    refused_early(dir, &format!("{generate} --out here/b.png --latents-out b.png"), &["--latents-out"]);
}

#[test]
fn kind_what_is_read_is_not_replaced() {
    let home = home();
    let dir = home.path();
    copy(&fixtures().join("sd2"), &dir.join("m"));
    std::fs::write(dir.join("l.safetensors"), "precious").unwrap();
    for line in [
        "generate x --model m --out new.png --latents-out m/unet/config.json --force",
        "generate x --model m --lora l.safetensors --out new.png --latents-out l.safetensors --force",
        "generate x --model m --init pics/a.png --out new.png --latents-out pics/a.png --force",
        "train --model m --images pics --prompt x --out m/unet/config.json --force",
        "train --model m --images pics --prompt x --out pics/a.png --force",
        "train --model m --images pics --prompt x --format peft-folder --out m --force",
        "train --model m --images pics --prompt x --format peft-folder --out pics --force",
        "train --model m --images pics --prompt x --method full --out pics --force",
        "forward text --model m --prompt x --out m/unet/config.json --force",
    ] {
        refused_early(dir, line, &[]);
    }
    std::fs::rename(dir.join("pics"), dir.join("run-samples")).unwrap();
    let line = "train --model m --images run-samples --prompt x --sample-prompt y --out run.safetensors --force";
    refused_early(dir, line, &["run-samples", "--images"]);
}
