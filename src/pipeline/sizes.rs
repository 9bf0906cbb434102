//! Sizes and places in pixels, as the command line and JSON write them.

use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Width and height in pixels, written `1024x768`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PixelSize {
    /// Width.
    pub width: u32,
    /// Height.
    pub height: u32,
}

/// Top and left edge in pixels, written `16,240`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PixelOffset {
    /// Rows above.
    pub top: u32,
    /// Columns to the left.
    pub left: u32,
}

impl FromStr for PixelSize {
    type Err = String;

    fn from_str(text: &str) -> Result<PixelSize, String> {
        match pair(text, &['x', 'X', '×']) {
            Some([width, height]) if width > 0 && height > 0 => Ok(PixelSize { width, height }),
            _ => Err("expected width and height in pixels, up to 65536, such as 1024x768".into()),
        }
    }
}

impl FromStr for PixelOffset {
    type Err = String;

    fn from_str(text: &str) -> Result<PixelOffset, String> {
        let found = pair(text, &[',']).map(|[top, left]| PixelOffset { top, left });
        found.ok_or_else(|| "expected the top and the left edge in pixels, up to 65536, such as 0,128".into())
    }
}

/// Largest number of pixels: beyond it a UNet's sines lose the precision that everything else has.
const MOST: u32 = 1 << 16;

/// Two numbers up to [`MOST`], with one of `between` between them.
fn pair(text: &str, between: &[char]) -> Option<[u32; 2]> {
    let (first, second) = text.split_once(between)?;
    let number = |text: &str| text.trim().parse::<u32>().ok().filter(|n| *n <= MOST);
    Some([number(first)?, number(second)?])
}

impl std::fmt::Display for PixelSize {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

impl std::fmt::Display for PixelOffset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{},{}", self.top, self.left)
    }
}

macro_rules! as_text {
    ($($kind:ty),+) => {
        $(impl Serialize for $kind {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $kind {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$kind, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        })+
    };
}

as_text!(PixelSize, PixelOffset);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_as_they_are_read() {
        for text in ["1024x768", "1x1"] {
            assert_eq!(text.parse::<PixelSize>().unwrap().to_string(), text);
        }
        assert_eq!("16, 240".parse::<PixelOffset>().unwrap().to_string(), "16,240");
        for text in ["", "x", "1024", "0x5", "-1x5", "1.5x2", "99999999999x1", "65537x1"] {
            assert!(text.parse::<PixelSize>().is_err(), "{text}");
        }
        assert!("1x2".parse::<PixelOffset>().is_err());
    }
}
