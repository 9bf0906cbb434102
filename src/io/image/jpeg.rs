//! Structure of a JPEG file: whether it is complete, and whether its coding is supported.

/// Checks that the image in `bytes` is whole and of a coding that is read.
///
/// A decoder fills what a cut JPEG lacks with gray, so the markers are walked as the format has them (ITU-T T.81, annex
/// B): segments are skipped by their lengths, a scan's data ends at the first marker that is no restart, and the
/// image ends at its own end marker. What follows that is not the image's: phones put videos and further images
/// there.
///
/// # Errors
/// A message for the user.
pub(super) fn check(bytes: &[u8]) -> Result<(), String> {
    const CUT: &str = "damaged JPEG: it ends too early, get it again";
    let mut at = 2;
    let mut scans = 0;
    loop {
        let Some(marker) = next_marker(bytes, &mut at) else { return Err(CUT.into()) };
        match marker {
            0xd9 if scans > 0 => return Ok(()),
            0xd9 => return Err("damaged JPEG: it holds no image, get it again".into()),
            // Another file begins where this one's data should go on.
            0xd8 => return Err("damaged JPEG: it ends too early and another image follows, get it again".into()),
            0xc0..=0xc2 => is_eight_bit(bytes.get(at + 2).copied())?,
            0xc3 | 0xcb => return Err(unread("lossless coding")),
            0xc5..=0xc7 | 0xcd..=0xcf => return Err(unread("hierarchical coding")),
            0xc9 | 0xca => return Err(unread("arithmetic coding")),
            // Restarts stand in a scan's data, 01 alone; neither has a length.
            0x01 | 0xd0..=0xd7 => continue,
            0x02..=0xbf | 0xf0..=0xfd => return Err("damaged JPEG: data is missing from it, get it again".into()),
            _ => {}
        }
        let length = bytes.get(at..at + 2).map(|b| usize::from(u16::from_be_bytes([b[0], b[1]])));
        let end = length.filter(|&length| length >= 2).map(|length| at + length);
        let Some(end) = end.filter(|&end| end <= bytes.len()) else { return Err(CUT.into()) };
        at = end;
        if marker == 0xda {
            scans += 1;
            skip_scan(bytes, &mut at);
        }
    }
}

fn unread(what: &str) -> String {
    format!("is a JPEG of {what}, which is not read: save it as a usual JPEG or as PNG")
}

fn is_eight_bit(precision: Option<u8>) -> Result<(), String> {
    match precision {
        Some(bits) if bits != 8 => Err(unread(&format!("{bits} bits a colour"))),
        _ => Ok(()),
    }
}

/// The code of the next marker, past which `at` is then; bytes between two segments are passed over, as libjpeg does.
fn next_marker(bytes: &[u8], at: &mut usize) -> Option<u8> {
    loop {
        *at += bytes.get(*at..)?.iter().position(|&b| b == 0xff)?;
        // Any number of FF may stand before the code.
        *at += bytes.get(*at..)?.iter().position(|&b| b != 0xff)?;
        *at += 1;
        match bytes[*at - 1] {
            0 => {}
            code => return Some(code),
        }
    }
}

/// Moves `at` to the marker that ends a scan's data: a zero after FF makes that a byte of the data, restarts belong to
/// it.
fn skip_scan(bytes: &[u8], at: &mut usize) {
    while let Some(found) = bytes.get(*at..).and_then(|rest| rest.iter().position(|&b| b == 0xff)) {
        *at += found;
        match bytes.get(*at + 1) {
            Some(0 | 0xd0..=0xd7) => *at += 2,
            Some(0xff) => *at += 1,
            _ => return,
        }
    }
    *at = bytes.len();
}

#[cfg(test)]
mod tests {
    use super::check;

    /// Segments of an image of one scan with `data`, and `after` behind it.
    fn file(frame: &[u8], data: &[u8], after: &[u8]) -> Vec<u8> {
        let begin = [&[0xff, 0xd8, 0xff, 0xe1, 0, 6, 0xff, 0xd9, 0xff, 0xda], frame, &[0xff, 0xda, 0, 2]].concat();
        [&begin, data, after].concat()
    }

    #[test]
    fn the_first_end_marker_outside_segments_ends_the_picture() {
        let baseline = [0xff, 0xc0, 0, 3, 8];
        let of = |data: &[u8], after: &[u8]| check(&file(&baseline, data, after));
        assert_eq!(of(&[1, 0xff, 0, 2, 0xff, 0xd3, 3], &[0xff, 0xff, 0xd9]), Ok(()));
        assert_eq!(of(&[1], &[0xff, 0xd9, 0xff, 0xda, 0, 0, 0xff, 0xd8]), Ok(()));
        // A further scan, with a table before it.
        assert_eq!(of(&[1], &[0xff, 0xc4, 0, 3, 7, 9, 9, 0xff, 0xda, 0, 2, 5, 0xff, 0xd9]), Ok(()));
        for (after, says) in [
            (&[][..], "ends too early, get"),
            (&[0xff], "ends too early, get"),
            (&[0xff, 0xd8, 0xff, 0xd9], "another image follows"),
            (&[0xff, 0x42, 0xff, 0xd9], "data is missing"),
            (&[0xff, 0xe0, 0xff, 0xff, 0xff, 0xd9], "ends too early, get"),
        ] {
            let message = of(&[1], after).expect_err(says);
            assert!(message.contains(says), "{message}");
        }
        for (code, bits, says) in [
            (0xc3, 8, "lossless"),
            (0xc5, 8, "hierarchical"),
            (0xc9, 8, "arithmetic"),
            (0xca, 8, "arithmetic"),
            (0xc1, 12, "12 bits a colour"),
        ] {
            let message = check(&file(&[0xff, code, 0, 3, bits], &[1], &[0xff, 0xd9])).expect_err(says);
            assert!(message.contains(says) && message.contains("not read"), "{message}");
        }
    }
}
