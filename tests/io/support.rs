//! Paths, tensors that can be changed, and a comparator for values.

use std::path::{Path, PathBuf};

use portray::Result;
use portray::low_level::io::{ElementType, SafeTensors, Tensor, write_safetensors};

/// A tensor of a file that a test changes.
pub struct OwnedTensor {
    pub name: String,
    pub dtype: ElementType,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

/// The tensors of the file at `path`.
pub fn owned(path: &Path) -> Vec<OwnedTensor> {
    let file = SafeTensors::open(path).unwrap();
    let own = |t: Tensor<'_>| OwnedTensor {
        name: t.name.to_string(),
        dtype: t.dtype,
        shape: t.shape.to_vec(),
        bytes: t.bytes().unwrap().to_vec(),
    };
    file.iter().map(own).collect()
}

/// Writes `tensors` to `path`, in place of what is there.
pub fn write_owned(path: &Path, tensors: &[OwnedTensor]) {
    let raw =
        |t: &OwnedTensor| Tensor::raw(t.name.clone(), t.dtype, &t.shape, Box::leak(t.bytes.clone().into_boxed_slice()));
    let tensors: Vec<_> = tensors.iter().map(raw).collect();
    // A file that is linked elsewhere is not written through.
    drop(std::fs::remove_file(path));
    write_safetensors(path, &tensors, &Default::default()).unwrap();
}

/// Copies the folder `from`, following links.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()) {
        let target = to.join(entry.file_name().unwrap());
        if entry.is_dir() {
            copy_folder(&entry, &target);
        } else {
            std::fs::copy(&entry, &target).unwrap();
        }
    }
}

/// A file or folder of the golden fixtures.
pub fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden").join(name)
}

/// The message of an error, which must be one line.
pub fn message<T>(result: Result<T>) -> String {
    let Err(error) = result else { panic!("expected an error") };
    let text = error.to_string();
    assert!(!text.contains('\n'), "more than one line: {text}");
    text
}

/// max |a - b| / max |b|; NaN anywhere, or different lengths, is infinitely far.
pub fn distance(a: &[f32], b: &[f32]) -> f32 {
    if a.len() != b.len() || a.iter().chain(b).any(|x| !x.is_finite()) {
        return f32::INFINITY;
    }
    let largest = b.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let apart = a.iter().zip(b).fold(0.0f32, |m, (x, y)| m.max((x - y).abs()));
    if apart == 0.0 { 0.0 } else { apart / largest }
}

/// A small deterministic stream for mutations (xorshift64).
pub struct Stream(pub u64);

impl Stream {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }

    /// `bytes` with a few of them changed, removed or doubled.
    pub fn mutate(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = bytes.to_vec();
        for _ in 0..1 + self.below(4) {
            if out.is_empty() {
                break;
            }
            let at = self.below(out.len());
            match self.below(5) {
                0 => out[at] = self.below(256) as u8,
                1 => out[at] ^= 1 << self.below(8),
                2 => out.truncate(at),
                3 => drop(out.remove(at)),
                _ => {
                    const MARKS: &[u8] = b"0123456789{}[]\",:-eNu\xff\0";
                    out.insert(at, MARKS[self.below(MARKS.len())]);
                }
            }
        }
        out
    }
}

#[test]
fn distance_can_fail() {
    assert_eq!(distance(&[1.0, 2.0], &[1.0, 2.0]), 0.0);
    assert!(distance(&[1.0, 2.1], &[1.0, 2.0]) > 0.04);
    assert_eq!(distance(&[f32::NAN], &[f32::NAN]), f32::INFINITY);
    assert_eq!(distance(&[1.0], &[1.0, 1.0]), f32::INFINITY);
    assert_eq!(distance(&[1.0], &[0.0]), f32::INFINITY);
}
