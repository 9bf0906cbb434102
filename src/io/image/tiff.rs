//! The first directory of a TIFF: what tells a camera's raw file from an image, and why an image is not read.

use crate::io::Source;

/// Entries of a directory that are looked at; a real one has some dozens.
const MOST_ENTRIES: u16 = 512;
const NEW_SUBFILE_TYPE: u16 = 254;
const BITS_PER_SAMPLE: u16 = 258;
const PHOTOMETRIC: u16 = 262;
const SUB_IFDS: u16 = 330;
const SAMPLE_FORMAT: u16 = 339;
const DNG_VERSION: u16 = 50706;

/// Values of the first directory, the first of each field.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Tags {
    bits: Option<u32>,
    sample_format: Option<u32>,
    photometric: Option<u32>,
    /// It only shows what another directory holds.
    reduced: bool,
    sub_ifds: bool,
    dng: bool,
}

impl Tags {
    /// Reads the tags of `source`; `None` if it is not a TIFF or its directory cannot be read.
    pub fn of(source: &Source) -> Option<Tags> {
        let head = source.read(0..8.min(source.len())).ok()?;
        let little = match head.get(..4)? {
            b"II*\0" => true,
            b"MM\0*" => false,
            _ => return None,
        };
        let short = |b: &[u8]| if little { u16::from_le_bytes([b[0], b[1]]) } else { u16::from_be_bytes([b[0], b[1]]) };
        let long = |b: &[u8]| match little {
            true => u32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            false => u32::from_be_bytes([b[0], b[1], b[2], b[3]]),
        };
        let start = u64::from(long(head.get(4..8)?));
        let count = short(&source.read(start..start.checked_add(2)?).ok()?);
        let entries = source.read(start + 2..start + 2 + 12 * u64::from(count.min(MOST_ENTRIES))).ok()?;
        let mut tags = Tags::default();
        for entry in entries.chunks_exact(12) {
            let (tag, format, values) = (short(entry), short(&entry[2..]), long(&entry[4..]));
            // Up to four bytes of values stand in the entry itself, else their place does.
            let value = match (format, values) {
                (3, 1..=2) => Some(u32::from(short(&entry[8..]))),
                (3, 3..) => {
                    let at = u64::from(long(&entry[8..]));
                    source.read(at..at + 2).ok().map(|b| u32::from(short(&b)))
                }
                (4 | 13, 1) => Some(long(&entry[8..])),
                _ => None,
            };
            match tag {
                NEW_SUBFILE_TYPE => tags.reduced = value.is_some_and(|v| v & 1 == 1),
                BITS_PER_SAMPLE => tags.bits = value,
                PHOTOMETRIC => tags.photometric = value,
                SAMPLE_FORMAT => tags.sample_format = value,
                SUB_IFDS => tags.sub_ifds = true,
                DNG_VERSION => tags.dng = true,
                _ => {}
            }
        }
        Some(tags)
    }

    /// Returns whether it is a camera's raw file: its first directory is then a small preview, or holds the sensor's
    /// data.
    pub fn raw(&self) -> bool {
        const COLOUR_FILTER_ARRAY: u32 = 32803;
        const LINEAR_RAW: u32 = 34892;
        let sensor = self.photometric.is_some_and(|p| p == COLOUR_FILTER_ARRAY || p == LINEAR_RAW);
        self.dng || sensor || (self.reduced && self.sub_ifds)
    }

    /// Describes its colours, if they are unusual.
    pub fn unusual(&self) -> String {
        let bits = self.bits.unwrap_or(1);
        match (self.sample_format, self.photometric) {
            (Some(3), _) => format!("{bits}-bit floats"),
            (Some(2), _) => format!("{bits}-bit signed numbers"),
            (_, Some(3)) => "a palette".into(),
            (_, Some(6)) => "YCbCr colours".into(),
            (_, Some(8..=10)) => "CIELab colours".into(),
            _ => format!("{bits} bits a channel, in this layout"),
        }
    }
}
