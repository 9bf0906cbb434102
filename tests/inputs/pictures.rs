//! Photos, captions, class images, and what is said of them.

use std::fs;
use std::path::{Path, PathBuf};

use image::{ImageFormat, RgbImage};
use portray::error::Message;
use portray::low_level::generate::plan_generate;
use portray::low_level::gpu::{AdapterClass, Caps};
use portray::low_level::io::image::PictureFolder;
use portray::low_level::train::plan_train;
use portray::{GenerateOptions, ModelOptions, PlanReport, TrainOptions};

use super::support::*;

mod formats;

fn noise(width: u32, height: u32) -> RgbImage {
    let value = |x: u32, y: u32| (x.wrapping_mul(2_654_435_761) ^ y.wrapping_mul(40_503)).rotate_left(7) as u8;
    RgbImage::from_fn(width, height, |x, y| image::Rgb([(x * 2) as u8, (y * 3) as u8, value(x, y)]))
}

fn jpeg() -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    noise(120, 90).write_to(&mut bytes, ImageFormat::Jpeg).unwrap();
    bytes.into_inner()
}

fn caps() -> Caps {
    Caps::webgpu_defaults(AdapterClass::Gpu)
}

fn model() -> ModelOptions {
    ModelOptions { model: Some(fixtures().join("sd15")), ..ModelOptions::default() }
}

fn training(images: &Path) -> TrainOptions {
    TrainOptions { images: Some(images.into()), prompt: Some("x".into()), model: model(), ..TrainOptions::default() }
}

/// What planning a training on `images` says.
fn said(job: &TrainOptions) -> Result<String, String> {
    plan_train(job, &caps()).map(|plan| Message::join(plan.notes, "\n").to_string()).map_err(|e| e.to_string())
}

fn folder(files: &[(&str, &[u8])]) -> (tempfile::TempDir, PathBuf) {
    let at = tempfile::tempdir().unwrap();
    let photos = at.path().join("photos");
    fs::create_dir(&photos).unwrap();
    for (name, bytes) in files {
        fs::write(photos.join(name), bytes).unwrap();
    }
    (at, photos)
}

const HEIC: &[u8] = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic";

#[test]
fn r07_what_is_left_out_is_named() {
    let photo = jpeg();
    let kinds: [(&str, &[u8], &str); 6] = [
        ("IMG_1.HEIC", HEIC, "1 HEIC image (IMG_1.HEIC)"),
        ("x.jpg", HEIC, "1 HEIC image (x.jpg)"),
        ("x.avif", b"\0\0\0\x18ftypavif\0\0\0\0avif", "1 AVIF image (x.avif)"),
        ("x.jxl", b"\xff\x0a\0\0", "1 JPEG XL image (x.jxl)"),
        ("x.mp4", b"\0\0\0\x18ftypisom\0\0\0\0isom", "1 video file (x.mp4)"),
        ("x.dng", b"nothing that is known", "1 raw photo (x.dng)"),
    ];
    for (name, bytes, says) in kinds {
        let (_at, photos) = folder(&[("a.jpg", &photo), ("b.JPEG", &photo), (name, bytes)]);
        let text = said(&training(&photos)).unwrap();
        assert!(text.contains("2 images at 48x48") && text.contains("left out: ") && text.contains(says), "{text}");
        fs::remove_file(photos.join("a.jpg")).unwrap();
        fs::remove_file(photos.join("b.JPEG")).unwrap();
        let text = said(&training(&photos)).unwrap_err();
        assert!(text.contains("holds no images that are read, only ") && text.contains(says), "{text}");
    }
}

#[cfg(unix)]
#[test]
fn n11_links_to_nothing_are_named() {
    let (_at, photos) = folder(&[("a.jpg", &jpeg())]);
    std::os::unix::fs::symlink("/gone/b.jpg", photos.join("b.jpg")).unwrap();
    let text = said(&training(&photos)).unwrap();
    assert!(text.contains("1 image at 48x48") && text.contains("1 link to nothing (b.jpg)"), "{text}");
}

#[test]
fn n16_pictures_below_the_folder_are_pointed_to() {
    let (_at, photos) = folder(&[]);
    let inner = photos.join("10_sks dog");
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("a.jpg"), jpeg()).unwrap();
    let text = said(&training(&photos)).unwrap_err();
    assert!(text.contains("10_sks dog: give that folder"), "{text}");
    fs::write(photos.join("b.jpg"), jpeg()).unwrap();
    let text = said(&training(&photos)).unwrap();
    assert!(text.contains("left out: 1 image in ") && text.contains("10_sks dog"), "{text}");
}

#[test]
fn kind_folders_with_many_and_odd_files() {
    let photo = jpeg();
    let heic: Vec<String> = (0..5).map(|i| format!("IMG_{i}.HEIC")).collect();
    let mut files: Vec<(&str, &[u8])> = heic.iter().map(|name| (name.as_str(), HEIC)).collect();
    files.extend([
        ("photo", &photo[..]),
        ("photo.txt", b"BMW on a wet road, in the rain"),
        ("Thumbs.db", b"x"),
        ("notes.md", b"x"),
        ("._photo", b"\0\x05\x16\x07"),
        (".hidden.jpg", &photo),
    ]);
    let (_at, photos) = folder(&files);
    let text = said(&training(&photos)).unwrap();
    assert!(text.contains("5 HEIC images (IMG_0.HEIC, IMG_1.HEIC, IMG_2.HEIC, 2 more)"), "{text}");
    assert!(text.contains("1 image at 48x48; each has a caption; not read: 1 other file (notes.md)"), "{text}");
    assert!(text.contains("1 hidden image (.hidden.jpg)") && !text.contains("Thumbs"), "{text}");
}

#[test]
fn r08_marks_of_encodings_are_no_words() {
    let photo = jpeg();
    let prompts = |caption: &[u8]| {
        let (_at, photos) = folder(&[("a.jpg", &photo), ("a.txt", caption)]);
        let found = PictureFolder::open(&photos).unwrap();
        found.captions().map(|captions| captions.of[0].clone()).map_err(|e| e.to_string())
    };
    assert_eq!(prompts(b"\xef\xbb\xbfa zorp dog"), Ok(Some("a zorp dog".into())));
    for blank in [&b"\xef\xbb\xbf"[..], b"\xef\xbb\xbf\r\n", b"\r\n"] {
        assert_eq!(prompts(blank), Ok(None));
    }
    for (bytes, says) in [(&b"\xff\xfea\0"[..], "UTF-16"), (b"caf\xe9", "byte 3"), (b"a\0b\0", "UTF-16")] {
        let message = prompts(bytes).unwrap_err();
        assert!(message.contains("a.txt: not UTF-8 text") && message.contains(says), "{message}");
    }
}

/// The most memory that the process of a plan had, in kB.
#[cfg(target_os = "linux")]
fn peak(photos: &Path, line: &str) -> u64 {
    let mut child =
        portray(photos.parent().unwrap()).args(words(line)).stdout(std::process::Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    while child.try_wait().unwrap().is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or_default();
        most = most.max(line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0));
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    most
}

#[cfg(target_os = "linux")]
#[test]
fn r14_plans_hold_no_pictures() {
    let (at, photos) = folder(&[]);
    RgbImage::from_pixel(5000, 4000, image::Rgb([9, 90, 160])).save(photos.join("0.png")).unwrap();
    let line = "plan train --model {F}/sd15 --images photos --prompt x";
    let one = peak(&photos, line);
    for i in 1..6 {
        fs::copy(photos.join("0.png"), photos.join(format!("{i}.png"))).unwrap();
    }
    let six = peak(&photos, line);
    // Each image is 60 MB.
    assert!(six < one + 40_000, "{one} kB for one, {six} kB for six");
    drop(at);
}

fn starting(at: &Path, width: Option<usize>, height: Option<usize>) -> GenerateOptions {
    let mut job = GenerateOptions {
        prompts: vec!["x".into()],
        model: model(),
        init: Some(at.into()),
        ..GenerateOptions::default()
    };
    (job.sampling.width, job.sampling.height) = (width, height);
    job
}

fn notes(plan: portray::Result<PlanReport>) -> String {
    Message::join(plan.unwrap().notes, "\n").to_string()
}

/// `VaeImageProcessor.preprocess` of diffusers 0.42.1 gives the sizes of the first three.
#[test]
fn r17_start_pictures_keep_their_size() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.png");
    for (own, asked, made, cut) in [
        ((96, 64), (None, None), "96x64", false),
        ((99, 67), (None, None), "96x64", false),
        ((64, 96), (None, None), "64x96", false),
        ((96, 64), (Some(64), Some(64)), "64x64", true),
        ((96, 64), (Some(48), None), "48x32", false),
        ((96, 64), (Some(48), Some(32)), "48x32", false),
    ] {
        picture(&path, own.0, own.1);
        let text = notes(plan_generate(&starting(&path, asked.0, asked.1), &caps()));
        assert!(text.contains(made), "{own:?} {asked:?}: {text}");
        assert_eq!(text.contains("is left out"), cut, "{own:?} {asked:?}: {text}");
    }
    picture(&path, 3, 64);
    let message = plan_generate(&starting(&path, None, None), &caps()).unwrap_err().to_string();
    assert!(message.contains("init") && message.contains("give width and height"), "{message}");
}

#[test]
fn r18_the_count_counts() {
    let photo = jpeg();
    let (at, photos) = folder(&[("a.jpg", &photo)]);
    let classes = at.path().join("classes");
    fs::create_dir(&classes).unwrap();
    for i in 0..6 {
        fs::write(classes.join(format!("{i}.jpg")), &photo).unwrap();
    }
    let job = |count| TrainOptions {
        class_prompt: Some("a dog".into()),
        class_images: Some(classes.clone()),
        class_count: count,
        ..training(&photos)
    };
    for (count, says) in
        [(None, "6 class images: 6 of 6 in "), (Some(3), "3 class images: 3 of 6 in "), (Some(9), ", 3 to make")]
    {
        let text = said(&job(count)).unwrap();
        assert!(text.contains(says), "{text}");
        assert_eq!(text.contains("to make"), count == Some(9), "{text}");
    }
    let message = said(&TrainOptions { class_prompt: None, ..job(None) }).unwrap_err();
    assert!(message.contains("class_images needs class_prompt"), "{message}");
    let text = said(&TrainOptions { class_prompt: None, class_images: None, ..job(Some(9)) }).unwrap();
    assert!(text.contains("class_count does nothing without class_prompt"), "{text}");
}

#[test]
fn r20_captions_are_counted_and_strays_named() {
    let photo = jpeg();
    let mut files: Vec<(String, &[u8])> = (1..=4).map(|i| (format!("{i}.jpg"), &photo[..])).collect();
    let captions = ["1.txt", "2.caption", "3.TXT", "4.jpg.txt", "other.txt"];
    files.extend(captions.map(|name| (name.to_owned(), name.as_bytes())));
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (name.as_str(), *bytes)).collect();
    let (_at, photos) = folder(&files);
    let text = said(&training(&photos)).unwrap();
    assert!(text.contains("4 images at 48x48, 4 prompts; each has a caption"), "{text}");
    assert!(text.contains("1 caption without an image (other.txt)"), "{text}");
    let (_at, photos) = folder(&files[..4]);
    assert!(said(&training(&photos)).unwrap().contains("none has a caption: all have prompt"));
}

#[test]
fn n16_a_strength_takes_few_digits() {
    let folder = tempfile::tempdir().unwrap();
    picture(&folder.path().join("p.png"), 48, 48);
    let line = "plan generate x --model {F}/sd15 --init p.png --strength 1e-300";
    let output = run(folder.path(), line);
    let text = stderr(&output);
    assert!(text.contains("--strength 1e-300 of --steps") && text.len() < 200, "{text}");
}

/// The text of the image that `line` makes, and what is said meanwhile.
fn made(folder: &Path, line: &str) -> (String, String) {
    let output = works(folder, &format!("generate {line} --out p.png --force"));
    let decoder = png::Decoder::new(std::io::BufReader::new(fs::File::open(folder.join("p.png")).unwrap()));
    let reader = decoder.read_info().unwrap();
    (reader.info().uncompressed_latin1_text[0].text.clone(), stderr(&output))
}

#[test]
fn r15_r16_r27_texts_say_what_decides() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    copy(&fixtures().join("sd15"), &at.join("sd-v1.5"));
    copy(&fixtures().join("sd15.lora-folder"), &at.join("cat-0.8"));
    let usual = "--model sd-v1.5 --steps 2 --seed 5 --width 16 --height 16 --sampler euler";
    let (text, _) = made(at, &format!("x {usual} --lora cat-0.8 --karras --spacing trailing --rng philox"));
    for field in [
        "Model: sd-v1.5,",
        "Lora: \"cat-0.8: 1\"",
        "Sampler: euler, Schedule type: Karras, CFG",
        "Timestep spacing: trailing",
        "RNG: philox",
    ] {
        assert!(text.contains(field), "{field} is not in {text}");
    }
    picture(&at.join("start.png"), 24, 16);
    let usual = usual.replace("--width 16 --height 16 ", "");
    let (text, said) = made(
        at,
        &format!("a<lora:zorp:0.8>(b:1.2) {usual} --init start.png --strength 0.5 --guidance 1 --negative blurry"),
    );
    assert!(text.starts_with("a(b:1.2)\nSteps: 2"), "{text}");
    for field in ["Size: 24x16", "Denoising strength: 0.5", "Init image: start.png", "Init image hash: "] {
        assert!(text.contains(field), "{field} is not in {text}");
    }
    assert!(!text.contains("Negative prompt") && !text.contains("<lora"), "{text}");
    for warning in ["--negative does nothing at guidance 1", "<lora:zorp:0.8> in a prompt", "--lora", "\"(b:1.2)\""] {
        assert!(said.contains(warning), "{warning} is not in {said}");
    }
}
