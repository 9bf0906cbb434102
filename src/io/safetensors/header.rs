//! The header, checked before anything in it is believed.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::ElementType;
use crate::base::json;
use crate::error::Error;
use crate::io::Source;

/// The reference implementation's limit: no real header comes near it, and it bounds what a bad length can allocate.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// One tensor's place in the file.
#[derive(Clone, Debug)]
pub struct Entry {
    pub dtype: ElementType,
    pub shape: Vec<usize>,
    /// Bytes within the data part.
    pub range: Range<u64>,
}

pub struct Header {
    pub data_start: u64,
    pub entries: BTreeMap<String, Entry>,
    pub metadata: BTreeMap<String, String>,
}

/// A JSON object as it is written: a map would silently keep the last of two equal keys.
struct Pairs(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor;
        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(PairsVisitor)
    }
}

/// Reads and checks the header of `source`.
pub fn read(source: &Source) -> crate::error::Result<Header> {
    let fault = |message: String| Error::file(source.name(), message);
    let total = source.len();
    if let Some(what) = source.mistaken() {
        return Err(fault(format!("not a safetensors file, {what}")));
    }
    if total < 8 {
        let message = format!("not a safetensors file: {total} bytes, the header length alone takes 8: get it again");
        return Err(fault(message));
    }
    let length = source.read(0..8)?.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    // Every header is a JSON object: what has no such length, and begins otherwise, is another file.
    if length > total - 8 && source.read(8..total.min(9))?.first().is_some_and(|first| *first != b'{') {
        let head = source.read(0..total.min(64))?;
        // A character may be cut at the end.
        let text = std::str::from_utf8(&head).map_or_else(|e| e.valid_up_to() + 4 > head.len(), |_| true);
        let text = text && !head.iter().any(|byte| byte.is_ascii_control() && !byte.is_ascii_whitespace());
        let is = match text {
            true => "text, such as JSON".into(),
            false => format!("a file of another kind (it announces a header of {length} bytes)"),
        };
        return Err(fault(format!("not a safetensors file, but {is}: give the .safetensors file itself")));
    }
    if length > MAX_HEADER_BYTES {
        return Err(fault(format!(
            "not a safetensors file, or damaged: it announces a header of {length} bytes, the limit is \
             {MAX_HEADER_BYTES}; get it again"
        )));
    }
    let Some(data_bytes) = (total - 8).checked_sub(length) else {
        let left = total - 8;
        let message = format!("truncated: the header takes {length} bytes, only {left} are left: get the file again");
        return Err(fault(message));
    };
    parse(&source.read(8..8 + length)?, 8 + length, data_bytes).map_err(fault)
}

/// The error is the message without the file's name.
fn parse(text: &[u8], data_start: u64, data_bytes: u64) -> Result<Header, String> {
    let text = std::str::from_utf8(text).map_err(|e| {
        format!("the header is not UTF-8 (byte {}): not a safetensors file or damaged", e.valid_up_to())
    })?;
    let Pairs(pairs) = json::parse(text).map_err(|e| format!("the header is not valid JSON: {e}"))?;

    let mut header = Header { data_start, entries: BTreeMap::new(), metadata: BTreeMap::new() };
    let mut seen_metadata = false;
    for (name, value) in pairs {
        if name == "__metadata__" {
            if std::mem::replace(&mut seen_metadata, true) {
                return Err("'__metadata__' appears twice in the header".into());
            }
            header.metadata = metadata(value)?;
        } else {
            let entry = entry(&value, data_bytes).map_err(|e| format!("tensor '{name}': {e}"))?;
            if header.entries.insert(name.clone(), entry).is_some() {
                return Err(format!("tensor '{name}' appears twice in the header"));
            }
        }
    }
    check_coverage(&header.entries, data_bytes)?;
    Ok(header)
}

fn metadata(value: Value) -> Result<BTreeMap<String, String>, String> {
    // The format wants strings; tools that write numbers and lists mean their text.
    let text = |value| if let Value::String(text) = value { text } else { value.to_string() };
    match value {
        Value::Null => Ok(BTreeMap::new()),
        Value::Object(map) => Ok(map.into_iter().map(|(key, value)| (key, text(value))).collect()),
        _ => Err("'__metadata__' is not an object".into()),
    }
}

fn entry(value: &Value, data_bytes: u64) -> Result<Entry, String> {
    let dtype = value.get("dtype").and_then(Value::as_str).ok_or("has no 'dtype'")?;
    let dtype = ElementType::from_name(dtype).ok_or_else(|| format!("unknown dtype '{dtype}'"))?;
    let numbers = |field: &str| -> Result<Vec<u64>, String> {
        let list = value.get(field).and_then(Value::as_array).ok_or_else(|| format!("has no list '{field}'"))?;
        let all = list.iter().map(Value::as_u64).collect::<Option<_>>();
        all.ok_or_else(|| format!("'{field}' holds what is no whole number"))
    };
    let shape = numbers("shape")?;
    let &[begin, end] = numbers("data_offsets")?.as_slice() else {
        return Err("'data_offsets' is not a pair".into());
    };
    if begin > end || end > data_bytes {
        return Err(format!(
            "bytes {begin}..{end} lie outside the file, which has {data_bytes} bytes of data: truncated or damaged, \
             get it again"
        ));
    }
    // A zero extent makes the tensor empty however large the others are.
    let needed = if shape.contains(&0) {
        Some(0)
    } else {
        shape.iter().try_fold(dtype.bytes() as u64, |bytes, &extent| bytes.checked_mul(extent))
    };
    match needed {
        None => Err(format!("shape {shape:?} overflows")),
        Some(needed) if needed != end - begin => {
            Err(format!("shape {shape:?} of {} takes {needed} bytes, its offsets give {}", dtype.name(), end - begin))
        }
        Some(_) => {
            let shape = shape.iter().map(|&n| usize::try_from(n)).collect::<Result<_, _>>();
            let shape = shape.map_err(|_| "is too large for this machine")?;
            Ok(Entry { dtype, shape, range: begin..end })
        }
    }
}

/// The format leaves no gap and no rest, so that a file has one reading only.
fn check_coverage(entries: &BTreeMap<String, Entry>, data_bytes: u64) -> Result<(), String> {
    let mut ranges: Vec<_> = entries.iter().map(|(name, e)| (e.range.start, e.range.end, name)).collect();
    ranges.sort_unstable();
    let mut reached = 0;
    for (begin, end, name) in ranges {
        if begin < reached {
            return Err(format!("tensor '{name}': its bytes {begin}..{end} overlap another tensor's"));
        }
        if begin > reached {
            return Err(format!("tensor '{name}': starts at byte {begin}, leaving a gap after byte {reached}"));
        }
        reached = end;
    }
    if reached != data_bytes {
        return Err(format!(
            "the tensors take {reached} bytes but {data_bytes} follow the header: damaged, get it again"
        ));
    }
    Ok(())
}
