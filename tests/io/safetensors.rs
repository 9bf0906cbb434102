//! safetensors: reading, writing, and every way a file can be wrong.

use std::collections::BTreeMap;

use portray::low_level::io::{ElementType, SafeTensors, Source, Tensor, write_atomic, write_folder, write_safetensors};

use super::support::{Stream, golden, message};

fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

fn parse(bytes: Vec<u8>) -> portray::Result<SafeTensors> {
    SafeTensors::from_source(Source::from_bytes("x.safetensors", bytes))
}

#[test]
fn golden_file_opens() {
    let f = SafeTensors::open(golden("sd2.safetensors")).unwrap();
    let ids = f.get("text.input_ids").unwrap();
    assert_eq!((ids.dtype, &*ids.shape), (ElementType::I64, &[6, 77][..]));
    assert_eq!(ids.to_i64().unwrap()[0], 49406);
    let out = f.get("unet.out").unwrap();
    assert_eq!(out.to_finite_f32().unwrap().len(), out.elements());
    let e = message(ids.to_f32());
    assert!(e.contains("sd2.safetensors") && e.contains("'text.input_ids'") && e.contains("I64"), "{e}");
    assert!(message(f.get("nope")).contains("no tensor 'nope'"));
}

#[test]
fn written_files_read_back_and_are_deterministic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new/folder/a.safetensors");
    let (a, i) = ([1.0f32, -2.5, 3e-8, 65504.0], [7i64, -1]);
    let tensors = [Tensor::f32("b", &[2, 2], &a), Tensor::f16("h", &[4], &a).unwrap(), Tensor::i64("i", &[2], &i)];
    let metadata = BTreeMap::from([("k".to_string(), "v \u{1f436}".to_string())]);
    write_safetensors(&path, &tensors, &metadata).unwrap();
    let first = std::fs::read(&path).unwrap();
    let reversed: Vec<_> = tensors.iter().rev().cloned().collect();
    write_safetensors(&path, &reversed, &metadata).unwrap();
    assert_eq!(first, std::fs::read(&path).unwrap());

    let f = SafeTensors::open(&path).unwrap();
    assert_eq!(f.metadata(), &metadata);
    assert_eq!(f.get("b").unwrap().to_f32().unwrap(), a);
    assert_eq!(f.get("h").unwrap().to_f32().unwrap(), [1.0, -2.5, 5.9604645e-8, 65504.0]);
    assert_eq!(f.get("i").unwrap().to_i64().unwrap(), i);
    // The reference implementation reads it too.
    let reference = safetensors::SafeTensors::deserialize(&first).unwrap();
    assert_eq!(reference.tensor("b").unwrap().shape(), [2, 2]);
    // Nothing else is left in the folder.
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn element_types_convert() {
    let header = r#"{"a":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]},
        "b":{"dtype":"F64","shape":[],"data_offsets":[2,10]},
        "c":{"dtype":"I32","shape":[1],"data_offsets":[10,14]},"d":{"dtype":"U64","shape":[1],"data_offsets":[14,22]},
        "e":{"dtype":"F32","shape":[0,18446744073709551615,3],"data_offsets":[22,22]}}"#;
    let data = [&0x3fc0u16.to_le_bytes()[..], &0.1f64.to_le_bytes(), &(-5i32).to_le_bytes(), &u64::MAX.to_le_bytes()];
    let f = parse(file(header, &data.concat())).unwrap();
    assert_eq!(f.get("a").unwrap().to_f32().unwrap(), [1.5]);
    assert_eq!(f.get("b").unwrap().to_f32().unwrap(), [0.1]);
    assert_eq!(f.get("c").unwrap().to_i64().unwrap(), [-5]);
    assert!(message(f.get("d").unwrap().to_i64()).contains("too large"));
    assert_eq!(f.get("c").unwrap().to_numbers().unwrap(), [-5.0]);
    assert_eq!(f.get("d").unwrap().to_numbers().unwrap(), [u64::MAX as f32]);
    let eight = message(Tensor::raw("w", ElementType::F8E4M3, &[1], &[0]).to_f32());
    assert!(eight.contains("is F8_E4M3, which is not read: get the file in F16, BF16 or F32"), "{eight}");
    assert_eq!(f.get("e").unwrap().elements(), 0);
    assert!(f.get("e").unwrap().to_f32().unwrap().is_empty());
}

#[test]
fn non_finite_values_are_found() {
    for (i, bad) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY].into_iter().enumerate() {
        let mut data = [0.5f32; 3];
        data[i] = bad;
        let e = message(Tensor::f32("w", &[3], &data).to_finite_f32());
        assert!(e.contains("'w'") && e.contains(&format!("element {i}")), "{e}");
    }
    assert!(message(Tensor::f16("w", &[1], &[1e6])).contains("does not fit half precision"));
}

#[test]
fn every_fault_is_named() {
    let one = |entry: &str, data: &[u8]| file(&format!(r#"{{"w":{entry}}}"#), data);
    let good = r#"{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
    let huge = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
    let mut not_utf8 = file(r#"{"w":1}"#, &[]);
    not_utf8[10] = 0xff;
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "not a safetensors file, but empty, 0 bytes: get it again"),
        (vec![1, 2, 3], "not a safetensors file: 3 bytes"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1".to_vec(), "a Git LFS pointer, which only says"),
        (b"\n<!DOCTYPE html><html><head>".to_vec(), "but a web page: download the file itself"),
        (huge, "limit is 100000000"),
        (90_000_000u64.to_le_bytes().to_vec(), "truncated: the header takes 90000000 bytes"),
        (not_utf8, "not UTF-8 (byte 2)"),
        (file("hello", &[]), "not valid JSON"),
        (file("[1]", &[]), "an object of tensors"),
        (file(&"[".repeat(100_000), &[]), "not valid JSON"),
        (one("3", &[]), "tensor 'w': has no 'dtype'"),
        (one(r#"{"dtype":"F31","shape":[2],"data_offsets":[0,8]}"#, &[0; 8]), "tensor 'w': unknown dtype 'F31'"),
        (one(r#"{"dtype":"F32","data_offsets":[0,8]}"#, &[0; 8]), "'shape'"),
        (one(r#"{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}"#, &[0; 8]), "'shape' holds what is no whole number"),
        (one(r#"{"dtype":"F32","shape":[2.5],"data_offsets":[0,8]}"#, &[0; 8]), "no whole number"),
        (one(r#"{"dtype":"F32","shape":[2],"data_offsets":[0]}"#, &[0; 8]), "'data_offsets' is not a pair"),
        (one(r#"{"dtype":"F32","shape":[2],"data_offsets":[8,0]}"#, &[0; 8]), "outside the file"),
        (one(good, &[0; 7]), "tensor 'w': bytes 0..8 lie outside the file, which has 7 bytes"),
        (one(good, &[0; 9]), "tensors take 8 bytes but 9 follow"),
        (one(r#"{"dtype":"F32","shape":[3],"data_offsets":[0,8]}"#, &[0; 8]), "takes 12 bytes, its offsets give 8"),
        (one(r#"{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}"#, &[0; 8]), "overflows"),
        (file(&format!(r#"{{"w":{good},"w":{good}}}"#), &[0; 8]), "tensor 'w' appears twice"),
        (file(&format!(r#"{{"v":{good},"w":{good}}}"#), &[0; 8]), "overlap"),
        (one(r#"{"dtype":"F32","shape":[1],"data_offsets":[4,8]}"#, &[0; 8]), "leaving a gap"),
        (file(r#"{"__metadata__":[]}"#, &[]), "'__metadata__' is not an object"),
    ];
    for (bytes, expected) in cases {
        let e = message(parse(bytes));
        assert!(e.starts_with("x.safetensors: ") && e.contains(expected), "expected {expected}, got {e}");
    }
    let e = message(SafeTensors::open("/nowhere/x.safetensors"));
    assert_eq!(e, "/nowhere/x.safetensors: no such file or folder");
    assert!(message(SafeTensors::open(golden(""))).contains("is a folder"));
}

/// The length of the header is what a file begins with, and some lengths begin as other kinds of files do.
#[test]
fn a_header_s_length_says_nothing_of_the_kind() {
    let folder = tempfile::tempdir().unwrap();
    for length in [0x0280, 0x0480, 0x8b1f, 0xfeff] {
        let header = format!("{:<length$}", r#"{"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#);
        let bytes = file(&header, &1f32.to_le_bytes());
        let path = folder.path().join(format!("{length}.safetensors"));
        std::fs::write(&path, &bytes).unwrap();
        let opened = SafeTensors::open(&path).unwrap_or_else(|e| panic!("{length}: {e}"));
        assert_eq!(opened.get("t").unwrap().to_f32().unwrap(), [1.0]);
        assert!(!message(portray::low_level::io::Checkpoint::open(&path)).contains("pickle"), "{length}");
    }
}

#[test]
fn mutated_files_never_panic() {
    let good = std::fs::read(golden("sd15-all.lora-folder/text_encoder/adapter_model.safetensors")).unwrap();
    let header = 8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let mut stream = Stream(0x9e37_79b9_7f4a_7c15);
    let (mut opened, mut refused) = (0, 0);
    for _ in 0..4000 {
        // The data part has no structure: all the damage goes to the header.
        let bytes = [stream.mutate(&good[..header]), good[header..].to_vec()].concat();
        match parse(bytes) {
            Ok(f) => {
                opened += 1;
                f.iter().for_each(|t| drop((t.to_f32(), t.to_i64())));
            }
            Err(e) => {
                refused += 1;
                assert!(!e.to_string().contains('\n'));
            }
        }
    }
    assert!(opened > 0 && refused > 3000, "{opened} opened, {refused} refused");
}

#[test]
fn a_failed_write_leaves_the_old_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.txt");
    write_atomic(&path, |out| out.write_all(b"old")).unwrap();
    let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
    let e = message(write_atomic(&path, |out| out.write_all(b"half").and(Err(full()))));
    assert!(e.contains("a.txt: cannot write: the disk is full"), "{e}");
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    assert!(message(write_atomic(dir.path(), |_| Ok(()))).contains("is a folder"));
    #[cfg(target_os = "linux")]
    {
        let e = message(write_atomic("/dev/full", |out| out.write_all(b"x")));
        assert!(e.contains("/dev/full: cannot write: the disk is full"), "{e}");
        let e = message(write_atomic("/proc/x.png", |out| out.write_all(b"x")));
        assert!(e.starts_with("/proc/x.png: cannot write: "), "{e}");
    }
}

#[test]
fn a_folder_appears_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model");
    let fill = |text: &'static str| {
        move |d: &std::path::Path| {
            std::fs::create_dir(d.join("sub")).unwrap();
            write_atomic(d.join("sub/a"), |out| out.write_all(text.as_bytes()))
        }
    };
    write_folder(&path, fill("one")).unwrap();
    let stopped = write_folder(&path, |d| fill("half")(d).and(Err(portray::Error::argument("stopped"))));
    assert_eq!(message(stopped), "stopped");
    assert_eq!(std::fs::read(path.join("sub/a")).unwrap(), b"one");
    write_folder(&path, fill("two")).unwrap();
    assert_eq!(std::fs::read(path.join("sub/a")).unwrap(), b"two");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    // A fault inside names the file as the user will know it.
    let e =
        message(write_folder(&path, |d| write_atomic(d.join("x"), |_| Err(std::io::ErrorKind::StorageFull.into()))));
    assert!(e.starts_with(&format!("{}: cannot write: the disk is full", path.join("x").display())), "{e}");
    // Something of the user's own in the folder is not deleted with it.
    std::fs::write(path.join("thesis.txt"), "years of work").unwrap();
    let e = message(write_folder(&path, fill("three")));
    assert!(e.contains("\"thesis.txt\", which would be lost"), "{e}");
    assert_eq!(std::fs::read(path.join("sub/a")).unwrap(), b"two");
    let e = message(write_folder(path.join("thesis.txt"), fill("four")));
    assert!(e.contains("is a file, and a folder is to be written"), "{e}");
}

#[test]
fn sources_read_ranges() {
    let s = Source::from_static("s", b"hello");
    assert_eq!(&*s.read(1..3).unwrap(), b"el");
    assert!(message(s.read(3..9)).contains("s: bytes 3..9 asked for, but it has 5"));
    assert!(
        message(Source::from_static("c.json", b"{\"a\": \xff}").json()).contains("c.json: not UTF-8 text (byte 6)")
    );
    assert!(message(Source::from_static("c.json", b"{\"a\": }").json()).contains("c.json: not valid JSON"));
}

/// Bytes that come slice by slice, and a count of those that were asked for.
struct Counted(Vec<u8>, std::sync::Arc<std::sync::atomic::AtomicUsize>);

impl portray::low_level::io::Slices for Counted {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&self, range: std::ops::Range<u64>) -> Result<Vec<u8>, String> {
        self.1.fetch_add((range.end - range.start) as usize, std::sync::atomic::Ordering::Relaxed);
        match range.start >= 1_000_000 {
            true => Err("the disk was pulled out".into()),
            false => Ok(self.0[range.start as usize..range.end as usize].to_vec()),
        }
    }
}

#[test]
fn slices_are_read_when_they_are_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    let values: Vec<f32> = (0..300_000).map(|i| i as f32).collect();
    write_safetensors(&path, &[Tensor::f32("x", &[3000, 100], &values)], &Default::default()).unwrap();
    let read = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let source = Source::from_slices("s", Counted(std::fs::read(&path).unwrap(), read.clone()));
    let (file, mapped) = (SafeTensors::from_source(source).unwrap(), SafeTensors::open(&path).unwrap());
    let (lazy, here) = (file.get("x").unwrap(), mapped.get("x").unwrap());
    assert_eq!((lazy.byte_len(), &lazy.shape), (here.byte_len(), &here.shape));
    assert_eq!(lazy.rows(1000, 7).unwrap().to_f32().unwrap(), here.rows(1000, 7).unwrap().to_f32().unwrap());
    assert_eq!(
        lazy.rows(1000, 7).unwrap().first_bytes(5).unwrap(),
        here.rows(1000, 7).unwrap().first_bytes(5).unwrap()
    );
    assert!(read.load(std::sync::atomic::Ordering::Relaxed) < 4000, "more was read than looked at");
    assert!(message(lazy.rows(2900, 100).unwrap().to_f32()).contains("s: the disk was pulled out"));
}
