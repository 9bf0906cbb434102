//! Images against Pillow (fixtures/io/pictures), and what people will try that is none.

use std::fs;
use std::path::PathBuf;

use portray::low_level::io::{Crop, Parameters, Picture, Source, list_pictures, write_png};
use serde_json::Value;

use super::support::{Stream, golden, message};

fn pictures() -> PathBuf {
    golden("../io/pictures")
}

fn expected() -> Value {
    serde_json::from_slice(&fs::read(pictures().join("expected.json")).unwrap()).unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    serde_json::from_value(value.clone()).unwrap()
}

/// The largest difference of two images' values; 256 when they differ in size.
fn apart(a: &[u8], b: &[u8]) -> i32 {
    if a.len() != b.len() {
        return 256;
    }
    a.iter().zip(b).map(|(x, y)| (i32::from(*x) - i32::from(*y)).abs()).max().unwrap_or(0)
}

#[test]
fn apart_can_fail() {
    assert_eq!(apart(&[1, 2], &[1, 2]), 0);
    assert_eq!(apart(&[1, 2], &[1, 9]), 7);
    assert_eq!(apart(&[1], &[1, 1]), 256);
}

#[test]
fn every_kind_of_picture_reads_as_pillow_reads_it() {
    let expected = expected();
    let all = expected["pictures"].as_object().unwrap();
    assert!(all.len() > 25);
    for (name, value) in all {
        let picture = Picture::open(pictures().join(name)).unwrap();
        assert_eq!(
            (picture.width, picture.height),
            (value[0].as_u64().unwrap() as usize, value[1].as_u64().unwrap() as usize),
            "{name}"
        );
        // Decoders of lossy formats round differently; blending rounds by one.
        let tolerance = if name.ends_with("jpg") { 4 } else { 1 };
        let far = apart(&picture.rgb, &bytes(&value[2]));
        assert!(far <= tolerance, "{name} is {far} apart");
    }
}

#[test]
fn resizing_and_cropping_is_pillows() {
    let picture = Picture::open(pictures().join("noise.png")).unwrap();
    for (case, value) in expected()["cover"].as_object().unwrap() {
        let n: Vec<f64> = case.split(',').map(|x| x.parse().unwrap()).collect();
        let crop = Crop { x: n[2], y: n[3] };
        let cover = picture.cover(n[0] as usize, n[1] as usize, crop).unwrap();
        let far = apart(&cover.rgb, &bytes(value));
        assert!(far <= 1, "{case} is {far} apart");
    }
    let whole = picture.prepare(83, 57, Crop::CENTER, false).unwrap();
    assert_eq!(Picture::from_unit(83, 57, &whole).unwrap(), picture);
    assert_eq!(whole[0], f32::from(picture.rgb[0]) / 127.5 - 1.0);
    let flipped = picture.prepare(83, 57, Crop::CENTER, true).unwrap();
    assert_eq!(flipped[..3], whole[82 * 3..83 * 3]);
    assert!(message(picture.cover(0, 5, Crop::CENTER)).contains("cannot crop to 0x5"));
    assert!(message(picture.cover(5, 5, Crop { x: f64::NAN, y: 0.0 })).contains("cannot crop"));
    let spoiled = Picture::from_unit(1, 1, &[f32::NAN, 0.0, 0.0]);
    // The command line was right: what failed is the work.
    assert_eq!(spoiled.as_ref().unwrap_err().exit_code(), 1);
    assert!(message(spoiled).contains("NaN (value 0); numbers on the way to it grew too large: try a lower guidance"));
    assert!(message(Picture::from_unit(1, 1, &[0.0])).contains("1 values are no 1x1 image"));
}

#[test]
fn extreme_sizes() {
    let dir = tempfile::tempdir().unwrap();
    for (width, height) in [(1, 1), (20_000, 20), (20, 20_000)] {
        let path = dir.path().join("a.png");
        let picture = Picture { width, height, rgb: vec![77; width * height * 3] };
        write_png(&path, &picture, &[]).unwrap();
        let read = Picture::open(&path).unwrap();
        assert_eq!(read, picture);
        let prepared = read.prepare(64, 64, Crop { x: 1.0, y: 0.0 }, false).unwrap();
        assert!(prepared.len() == 64 * 64 * 3 && prepared.iter().all(|&v| v == 77.0 / 127.5 - 1.0));
    }
    // An image that only claims to be huge is refused by its header.
    let mut png = fs::read(pictures().join("rgb.png")).unwrap();
    png[16..24].copy_from_slice(&[0, 0, 0x4e, 0x20, 0, 0, 0x4e, 0x20]);
    let crc = crc32(&png[12..29]);
    png[29..33].copy_from_slice(&crc.to_be_bytes());
    let e = message(Picture::from_source(&Source::from_bytes("huge.png", png)));
    assert_eq!(e, "huge.png: 20000x20000 pixels are too many, the limit is 256 million: scale it down first");
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

#[test]
fn what_is_no_picture_is_named() {
    let open = |bytes: &[u8]| message(Picture::from_source(&Source::from_bytes("x.png", bytes)));
    assert_eq!(open(b"hello"), "x.png: is a text file: expected PNG, JPEG, WebP, GIF, BMP, TIFF");
    assert_eq!(open(b""), "x.png: the file is empty");
    assert!(open(b"\0\0\0\x18ftypheic").contains("HEIC"));
    assert!(open(&[0x80, 1, 2, 3]).contains("is no image in a known format"));
    assert!(message(Picture::open("/nowhere/x.png")).contains("no such file"));
    assert!(message(Picture::open(pictures())).contains("is a folder"));
    for name in ["rgb.png", "rgb.jpg", "progressive.jpg", "animated.gif", "rgb.bmp", "rgb.tiff", "rgba.webp"] {
        let whole = fs::read(pictures().join(name)).unwrap();
        // Of an animation the first frame is read: cut into that one.
        let kept = if name.starts_with("animated") { whole.len() / 3 } else { whole.len() * 2 / 3 };
        let e = open(&whole[..kept]);
        assert!(e.starts_with("x.png: damaged "), "{name}: {e}");
    }
    // Contents decide, not names.
    let jpeg = fs::read(pictures().join("rgb.jpg")).unwrap();
    assert!(Picture::from_source(&Source::from_bytes("x.png", jpeg)).is_ok());
}

#[test]
fn mutated_pictures_never_panic() {
    let mut stream = Stream(7);
    let mut refused = 0;
    for (name, rounds) in [
        ("rgba.png", 3000),
        ("palette-transparent.png", 1000),
        ("rgb.jpg", 500),
        ("animated.gif", 500),
        ("rgba.webp", 500),
        ("rgb.bmp", 500),
        ("rgb.tiff", 500),
        ("cmyk.jpg", 200),
    ] {
        let good = fs::read(pictures().join(name)).unwrap();
        for _ in 0..rounds {
            let source = Source::from_bytes("x", stream.mutate(&good));
            if let Err(e) = Picture::from_source(&source) {
                refused += 1;
                assert!(!e.to_string().contains('\n'));
            }
        }
    }
    assert!(refused > 2000, "{refused}");
}

#[test]
fn folders_are_listed_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let e = message(list_pictures(dir.path()));
    assert!(e.contains("holds no images: expected PNG, JPEG"), "{e}");
    for (name, from) in
        [("b.PNG", "rgb.png"), ("a.jpeg", "rgb.jpg"), ("no-ending", "rgb.jpg"), (".hidden.png", "rgb.png")]
    {
        fs::copy(pictures().join(from), dir.path().join(name)).unwrap();
    }
    fs::write(dir.path().join("a.txt"), "a caption that is longer than an image's first bytes").unwrap();
    fs::write(dir.path().join("c.png"), "not an image").unwrap();
    fs::create_dir(dir.path().join("folder.png")).unwrap();
    let names: Vec<_> = list_pictures(dir.path()).unwrap().iter().map(|p| p.file_name().unwrap().to_owned()).collect();
    assert_eq!(names, ["a.jpeg", "b.PNG", "c.png", "no-ending"]);
    assert!(message(list_pictures(dir.path().join("a.txt"))).contains("is a file: give the folder"));
    assert!(message(list_pictures("/nowhere")).contains("no such file or folder"));
}

#[test]
fn parameters_are_written_as_others_write_them() {
    let mut parameters = Parameters {
        prompt: "a sks dog, best quality".into(),
        negative: "blurry".into(),
        steps: 25,
        sampler: "dpm++2m".into(),
        guidance: 7.5,
        seed: 42,
        size: (512, 768),
        model: "C:/models/x".into(),
        loras: vec![("dog".into(), 0.8), ("cat".into(), 1.0)],
        strength: Some(0.7),
        ..Parameters::default()
    };
    let version = env!("CARGO_PKG_VERSION");
    let expected = format!(
        "a sks dog, best quality\nNegative prompt: blurry\nSteps: 25, Sampler: dpm++2m, CFG scale: 7.5, Seed: 42, \
         Size: 512x768, Model: \"C:/models/x\", Denoising strength: 0.7, Lora: \"dog: 0.8, cat: 1\", Version: portray \
                                 {version}"
    );
    assert_eq!(parameters.to_string(), expected);
    let dir = tempfile::tempdir().unwrap();
    let picture = Picture { width: 2, height: 1, rgb: vec![1, 2, 3, 4, 5, 6] };
    for (prompt, latin) in [("café", true), ("日本 🐶", false)] {
        parameters.prompt = prompt.into();
        let path = dir.path().join("a.png");
        write_png(&path, &picture, &[("parameters", &parameters.to_string())]).unwrap();
        let reader = png::Decoder::new(std::io::BufReader::new(fs::File::open(&path).unwrap())).read_info().unwrap();
        let info = reader.info();
        let text = match latin {
            true => info.uncompressed_latin1_text[0].text.clone(),
            false => info.utf8_text[0].get_text().unwrap(),
        };
        assert_eq!(text, parameters.to_string());
        assert_eq!(Picture::open(&path).unwrap(), picture);
    }
    let e = message(write_png(dir.path().join("b.png"), &Picture { width: 3, ..picture }, &[]));
    assert!(e.contains("cannot encode the image as PNG"), "{e}");
    assert!(!dir.path().join("b.png").exists());
}
