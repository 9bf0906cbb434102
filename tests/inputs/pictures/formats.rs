//! Files of images, whole, damaged, large, turned, and of kinds that are not read.

use portray::low_level::io::image::{Decoded, Fit, size};
use portray::low_level::io::{Picture, Source};

use super::*;

fn progressive() -> Vec<u8> {
    fs::read(fixtures().join("../io/pictures/progressive.jpg")).unwrap()
}

/// Bytes without order, none of which ends a JPEG.
fn video() -> Vec<u8> {
    let mut state = 2u32;
    let mut bytes = b"\0\0\0\x18ftypmp42".to_vec();
    bytes.extend((0..20_000).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    }));
    while let Some(at) = bytes.windows(2).position(|pair| pair == [0xff, 0xd9]) {
        bytes[at] = 0;
    }
    [&bytes, &b"\xff\xda"[..]].concat()
}

fn opened(bytes: Vec<u8>) -> Result<Picture, String> {
    Picture::from_source(&Source::from_bytes("a.jpg", bytes)).map_err(|e| e.to_string())
}

/// Verdicts of Pillow 13.0.0.
#[test]
fn r02_a_jpeg_ends_at_its_own_end_marker() {
    for whole in [jpeg(), progressive()] {
        let alone = opened(whole.clone()).unwrap();
        let behind = [video(), b"\xff\xda\0\0".to_vec(), jpeg(), vec![0; 500], b"SEFHk\0\xff\xd8\xff\xda".to_vec()];
        for tail in behind {
            assert_eq!(opened([whole.clone(), tail].concat()).unwrap(), alone);
        }
        let cut = whole[..whole.len() * 2 / 3].to_vec();
        for tail in [Vec::new(), jpeg(), video(), vec![0; 500], [video(), b"\xff\xd9".to_vec()].concat()] {
            let message = opened([cut.clone(), tail].concat()).unwrap_err();
            assert!(message.starts_with("a.jpg: damaged JPEG: "), "{message}");
        }
        assert!(opened(whole[..whole.len() - 2].to_vec()).is_err());
    }
}

#[test]
fn kind_pictures_that_are_not_read_say_why() {
    let mut arithmetic = jpeg();
    let frame = arithmetic.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    arithmetic[frame + 1] = 0xc9;
    let message = opened(arithmetic).unwrap_err();
    assert!(message.contains("arithmetic coding") && !message.contains("damaged"), "{message}");
    for (bytes, says) in [
        (&b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif"[..], "AVIF image"),
        (b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom", "raw photo"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "a video"),
        (b"8BPS\0\x01", "Photoshop image"),
        (b"<svg/>", "SVG image"),
    ] {
        let message = opened(bytes.to_vec()).unwrap_err();
        assert!(message.contains(says) && message.contains("not read"), "{message}");
    }
}

/// A little-endian TIFF of one pixel: its fields as (tag, type, value), in order.
fn tiff(fields: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = b"II*\0\x08\0\0\0".to_vec();
    bytes.extend((fields.len() as u16).to_le_bytes());
    for (tag, format, value) in fields {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(format.to_le_bytes());
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(value.to_le_bytes());
    }
    [bytes, vec![0; 64]].concat()
}

#[test]
fn n16_tiffs_that_are_not_read_say_why() {
    let usual = |bits: u32, photometric: u32, format: u32| {
        vec![
            (256, 3, 1),
            (257, 3, 1),
            (258, 3, bits),
            (259, 3, 1),
            (262, 3, photometric),
            (273, 4, 150),
            (277, 3, 1),
            (278, 3, 1),
            (279, 4, bits / 8),
            (339, 3, format),
        ]
    };
    let floats = opened(tiff(&usual(32, 1, 3))).unwrap_err();
    assert!(floats.contains("TIFF of 32-bit floats, which is not read: save it as"), "{floats}");
    let palette = opened(tiff(&usual(8, 3, 1))).unwrap_err();
    assert!(palette.contains("a palette") && !palette.contains("damaged"), "{palette}");
    // A camera's raw file shows a small preview as its first image.
    let mut dng = usual(8, 1, 1);
    dng.push((50706, 4, 0x0401));
    let raw = opened(tiff(&dng)).unwrap_err();
    assert!(raw.contains("raw photo") && raw.contains("develop"), "{raw}");
    let mut nef = usual(8, 1, 1);
    nef.insert(0, (254, 4, 1));
    nef.insert(8, (330, 4, 8));
    assert!(opened(tiff(&nef)).unwrap_err().contains("raw photo"));
}

#[test]
fn r14_large_photos_are_read_and_larger_ones_named() {
    let (_at, photos) = folder(&[]);
    let mut png = fs::read(fixtures().join("../io/pictures/rgb.png")).unwrap();
    let claim = |png: &mut Vec<u8>, width: u32, height: u32| {
        png[16..20].copy_from_slice(&width.to_be_bytes());
        png[20..24].copy_from_slice(&height.to_be_bytes());
        let crc = crc32(&png[12..29]);
        png[29..33].copy_from_slice(&crc.to_be_bytes());
    };
    let path = photos.join("a.png");
    claim(&mut png, 12_000, 9_000);
    fs::write(&path, &png).unwrap();
    assert_eq!(size(&path).unwrap(), [12_000, 9_000]);
    claim(&mut png, 20_000, 20_000);
    fs::write(&path, &png).unwrap();
    let message = size(&path).unwrap_err().to_string();
    assert!(message.contains("20000x20000 pixels are too many, the limit is 256 million"), "{message}");
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

#[test]
fn kind_turned_photos_are_resized_as_they_are_shown() {
    for turn in 1..=8 {
        let path = fixtures().join(format!("../io/pictures/orientation-{turn}.jpg"));
        let whole = Picture::open(&path).unwrap();
        assert_eq!(size(&path).unwrap(), [whole.width, whole.height]);
        let streamed = Decoded::open(&path).unwrap();
        for fit in [Fit::Stretch, Fit::Cover(portray::low_level::io::Crop { x: 0.0, y: 1.0 })] {
            let made = streamed.resized([16, 24], fit).unwrap();
            if let Fit::Cover(crop) = fit {
                assert_eq!(made, whole.cover(16, 24, crop).unwrap(), "orientation {turn}");
            }
            assert_eq!((made.width, made.height), (16, 24));
        }
    }
}
