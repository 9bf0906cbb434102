//! Inpainting models at the command line: masks, what is refused, and trainings on images.

use std::path::Path;

use super::common::inpainting_model;
use super::support::*;

/// A mask of `width` x `height` whose pixels are white where `white` says so.
fn mask(path: &Path, [width, height]: [usize; 2], white: impl Fn(usize, usize) -> bool) {
    let pixel = |i: usize| if white(i % width, i / width) { [255u8; 3] } else { [0; 3] };
    let rgb = (0..width * height).flat_map(pixel).collect();
    portray::low_level::io::write_png(path, &portray::low_level::io::Picture { width, height, rgb }, &[]).unwrap();
}

#[test]
fn masks_belong_to_inpainting_models() {
    let (model, dir) = (inpainting_model("sd15"), tempfile::tempdir().unwrap());
    let at = dir.path();
    let name = model.path().display().to_string();
    picture(&at.join("init.png"), 40, 24);
    mask(&at.join("mask.png"), [80, 48], |x, _| x < 30);
    mask(&at.join("square.png"), [40, 40], |x, _| x < 30);
    mask(&at.join("black.png"), [40, 24], |_, _| false);
    std::fs::write(at.join("text.png"), "no image").unwrap();
    let own = format!("x --steps 2 --model {name}");
    let both = "--init init.png --mask mask.png";
    for (line, code, named) in [
        (format!("generate {own}"), 2, [name.as_str(), "is an inpainting model", "--init", "--mask"]),
        (format!("generate {own} --init init.png"), 2, [&name, "is an inpainting model", "--mask", ""]),
        (format!("plan generate {own} --init init.png"), 2, [&name, "is an inpainting model", "--mask", ""]),
        (format!("generate {own} --mask mask.png"), 2, ["--init", "", "", ""]),
        (format!("generate x {both}"), 2, ["--mask", "is not an inpainting model", "9 channels", "leave --mask out"]),
        (format!("generate {own} --init init.png --mask square.png"), 2, ["--mask", "40x40", "--init", "40x24"]),
        (format!("generate {own} --init init.png --mask text.png"), 1, ["text.png", "a text file", "", ""]),
        (format!("generate {own} --init init.png --mask none.png"), 1, ["none.png", "", "", ""]),
        (format!("generate {own} {both} --strength 0"), 2, ["--strength 0", "", "", ""]),
        (format!("generate {own} {both} --strength 0.01"), 2, ["--strength 0.01", "--steps", "", ""]),
    ] {
        refused(at, &line, code, &named);
    }
    let text = stdout(&works(at, &format!("plan generate {own} {both}")));
    assert!(text.contains("VAE encoder") && text.contains("40x24"), "{text}");
    let text = stdout(&works(at, &format!("inspect {name}")));
    assert!(text.contains("inpainting") && !text.contains("cannot be used"), "{text}");

    let output = works(at, &format!("generate {own} {both} --out a.png"));
    assert!(!stderr(&output).contains("nowhere white"), "{}", stderr(&output));
    let bytes = std::fs::read(at.join("a.png")).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    for field in
        ["Size: 40x24", "Denoising strength: 1,", "Init image: init.png", "Mask image: mask.png", "Mask image hash: "]
    {
        assert!(text.contains(field), "{field}");
    }
    let output = works(at, &format!("generate {own} --init init.png --mask black.png --out b.png"));
    assert!(stderr(&output).contains("--mask is nowhere white"), "{}", stderr(&output));
    assert_ne!(std::fs::read(at.join("b.png")).unwrap(), bytes);
    refused(
        at,
        &format!("generate {own} {both} --out c.png --latents-out mask.png --force"),
        2,
        &["--mask", "mask.png"],
    );
}

#[test]
fn trainings_draw_their_own_masks() {
    let (model, dir) = (inpainting_model("sd2"), tempfile::tempdir().unwrap());
    let name = model.path().display().to_string();
    let train = format!(
        "train --model {name} --images {{A}}/subjects/cat --prompt cat --class-prompt dog --class-count 1 --rank 2 --lr 1e-2 \
         --resolution 24 --steps 4 --flip --buckets --sample-prompt cat --sample-every 2 --save-every 2 --json"
    );
    let output = works(dir.path(), &format!("{train} --out whole.safetensors"));
    assert_eq!(stdout(&output).matches("\"event\":\"sample\"").count(), 2, "{}", stdout(&output));
    // Stopped in between, it comes to the same: masks are drawn by their numbers.
    let train = &format!("{train} --evaluate-every 2");
    let mut command = portray(dir.path());
    command.args(words(&format!("{train} --out parts.safetensors"))).stdout(std::process::Stdio::piped());
    let mut child = command.stderr(std::process::Stdio::null()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    assert!(lines.any(|line| line.unwrap().contains("\"step\":2,")));
    child.kill().unwrap();
    child.wait().unwrap();
    if !dir.path().join("parts.safetensors").exists() {
        works(dir.path(), &format!("{train} --out parts.safetensors --resume"));
    }
    let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    assert_eq!(read("whole.safetensors"), read("parts.safetensors"));
    // Another seed has other masks.
    works(dir.path(), &format!("{train} --out other.safetensors --seed 1"));
    assert_ne!(read("whole.safetensors"), read("other.safetensors"));
    // What it gives goes with the model.
    mask(&dir.path().join("mask.png"), [64, 64], |x, y| x > y);
    let start = "--init {A}/subjects/cat/0.png --mask mask.png --width 24 --height 24 --steps 2";
    works(dir.path(), &format!("generate cat --model {name} --lora whole.safetensors {start} --out with.png"));
    works(dir.path(), &format!("generate cat --model {name} {start} --out without.png"));
    assert_ne!(read("with.png"), read("without.png"));
    let plan = stdout(&works(dir.path(), &format!("plan {}", train.replace("--json", ""))));
    assert!(plan.contains("VAE encoder"), "{plan}");
}

#[test]
fn replays_have_masks_where_the_model_reads_them() {
    let (model, dir) = (inpainting_model("sd15"), tempfile::tempdir().unwrap());
    let name = model.path().display().to_string();
    let with = "--replay {F}/../inpaint/sd15.replay.safetensors";
    let without = "--replay {F}/sd15-train/replay.safetensors";
    refused(
        dir.path(),
        &format!("train --model {{F}}/sd15 {with}"),
        1,
        &["sd15.replay.safetensors", "not an inpainting"],
    );
    refused(dir.path(), &format!("train --model {name} {without}"), 1, &["replay.safetensors", "masked_latents"]);
    // Every weight, the first convolution's too.
    let full = format!("train --model {name} {with} --method full --steps 1 --batch 2 --out full --lr 1e-3");
    works(dir.path(), &full);
    let first = |folder: &Path| {
        let file =
            portray::low_level::io::SafeTensors::open(folder.join("unet/diffusion_pytorch_model.safetensors")).unwrap();
        file.get("conv_in.weight").unwrap().to_f32().unwrap()
    };
    let (before, after) = (first(model.path()), first(&dir.path().join("full")));
    let moved = |channels: std::ops::Range<usize>| {
        let of = |(i, _): &(usize, &f32)| channels.contains(&(i / 9 % 9));
        before.iter().enumerate().filter(of).any(|(i, x)| (after[i] - x).abs() > 1e-5)
    };
    assert!([0..4, 4..5, 5..9].into_iter().all(moved), "latents, mask and masked latents are all trained");
}
