//! What the integration tests share.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use portray::low_level::io::{ElementType, Tensor};
use portray::{Engine, EngineOptions};

/// A file of what PyTorch and diffusers gave: a fixture, or one of another folder that `PORTRAY_GOLDEN` names.
pub fn golden(name: &str) -> PathBuf {
    let fixtures = || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/golden");
    std::env::var_os("PORTRAY_GOLDEN").map_or_else(fixtures, PathBuf::from).join(name)
}

/// One engine for all tests of a process, on the adapter that `WGPU_ADAPTER_NAME` or `VK_ICD_FILENAMES` selects: a driver
/// without a cache on disk compiles a kernel once for all of them.
pub fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    let request = || pollster::block_on(Engine::request(&EngineOptions::default()));
    ENGINE.get_or_init(|| request().expect("an adapter: run `cargo xtask test`"))
}

/// The golden model `kind` as an inpainting model, in a folder of its own: `tests/fixtures/make_inpaint.py` says how.
pub fn inpainting_model(kind: &str) -> tempfile::TempDir {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    with_first_convolution(&fixtures.join("golden").join(kind), &fixtures.join(format!("inpaint/{kind}.safetensors")))
}

/// The SDXL model `xl` as an inpainting model, in a folder of its own: `tests/fixtures/make_xl.py` says how.
pub fn xl_inpainting_model() -> tempfile::TempDir {
    with_first_convolution(&xl("xl"), &xl("inpaint.safetensors"))
}

/// A copy of the folder `model` that reads nine channels with the first convolution that `first` holds.
fn with_first_convolution(model: &Path, first: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let replaced = ["unet/config.json", "unet/diffusion_pytorch_model.safetensors"];
    link_folder(model, folder.path(), &replaced.map(|name| folder.path().join(name)));
    let [config, weights] = replaced.map(|name| model.join(name));
    let text = std::fs::read_to_string(config).expect("a configuration");
    assert!(text.contains("\"in_channels\": 4"));
    let text = text.replace("\"in_channels\": 4", "\"in_channels\": 9");
    std::fs::write(folder.path().join(replaced[0]), text).expect("a configuration");
    let (weights, first) = (open(&weights), open(first));
    let others = weights.iter().filter(|tensor| tensor.name != "conv_in.weight");
    let tensors: Vec<_> = others.chain(first.get("conv_in.weight")).collect();
    portray::low_level::io::write_safetensors(folder.path().join(replaced[1]), &tensors, &Default::default())
        .expect("weights");
    folder
}

/// A file of the SDXL family: a fixture.
pub fn xl(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/xl").join(name)
}

/// A tensor's name in a single file, shape, f16 values as bytes.
type Half = (String, Vec<usize>, Vec<u8>);

/// Writes the single file of `kind`, `xl-64`, `xl-v-64` or `ssd-64`, to `to`: the folder's tensors under the names that
/// diffusers reads (`names-KIND.txt`; `make_xl.py` checks them), with what such files hold besides.
pub fn write_xl_single_file(kind: &str, to: &Path) {
    let names = std::fs::read_to_string(xl(&format!("names-{}.txt", kind.replace("-v", "")))).expect("names");
    let mut tensors: Vec<Half> = Vec::new();
    for part in ["unet", "vae", "text_encoder", "text_encoder_2"] {
        let stem = if part.starts_with("text") { "model" } else { "diffusion_pytorch_model" };
        let file = open(&xl(kind).join(part).join(format!("{stem}.safetensors")));
        let mut thirds = BTreeMap::<String, BTreeMap<&str, Half>>::new();
        for line in names.lines().filter(|line| line.split(' ').next() == Some(part)) {
            let fields: Vec<&str> = line.split(' ').collect();
            let (original, how) = (fields[1].to_owned(), fields.get(3).copied().unwrap_or_default());
            let tensor = file.get(fields[2]).unwrap_or_else(|e| panic!("{e}"));
            let (mut shape, bytes) = (tensor.shape.to_vec(), tensor.bytes().expect("values").to_vec());
            match how {
                "0" | "1" | "2" => {
                    thirds.entry(original.clone()).or_default().insert(how, (original, shape, bytes));
                    continue;
                }
                "11" => shape.extend([1, 1]),
                _ => {}
            }
            tensors.push(if how == "T" { transposed(original, &shape, &bytes) } else { (original, shape, bytes) });
        }
        for (original, rows) in thirds {
            assert_eq!(rows.len(), 3, "{original}");
            let mut shape = rows["0"].1.clone();
            shape[0] *= 3;
            tensors.push((original, shape, rows.into_values().flat_map(|(_, _, bytes)| bytes).collect()));
        }
    }
    tensors.push(("conditioner.embedders.1.model.logit_scale".into(), vec![], vec![0, 0x44]));
    if kind.contains("-v") {
        tensors.extend(["v_pred", "ztsnr"].map(|mark| (mark.to_owned(), vec![0], vec![])));
    }
    let raw = tensors.iter().map(|(name, shape, bytes)| Tensor::raw(name.as_str(), ElementType::F16, shape, bytes));
    let tensors: Vec<_> = raw.collect();
    portray::low_level::io::write_safetensors(to, &tensors, &Default::default()).expect("a file");
}

fn transposed(name: String, shape: &[usize], bytes: &[u8]) -> Half {
    let [rows, columns] = shape[..] else { panic!("{name} is {shape:?}") };
    let at = |column: usize, row: usize| &bytes[2 * (row * columns + column)..][..2];
    let values = (0..columns).flat_map(|column| (0..rows).flat_map(move |row| at(column, row)).copied());
    (name, vec![columns, rows], values.collect())
}

fn open(path: &Path) -> portray::low_level::io::SafeTensors {
    portray::low_level::io::SafeTensors::open(path).unwrap_or_else(|e| panic!("{e}"))
}

/// Puts the files of `from` into `to`, but those of `without`.
pub fn link_folder(from: &Path, to: &Path, without: &[PathBuf]) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder").map(|entry| entry.expect("a file").path()) {
        let target = to.join(entry.file_name().expect("a name"));
        if entry.is_dir() {
            link_folder(&entry, &target, without);
        } else if !without.contains(&target) {
            std::fs::hard_link(&entry, &target).or_else(|_| std::fs::copy(&entry, &target).map(drop)).expect("a file");
        }
    }
}

/// A file of the vision models: a fixture (`tests/fixtures/make_vision.py` says which).
pub fn vision(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/vision").join(name)
}

/// The CLIP of the fixtures in a folder of its own, with its whole token table and its tokenizer.
pub fn vision_clip() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let weights = folder.path().join("model.safetensors");
    link_folder(&vision("clip"), folder.path(), std::slice::from_ref(&weights));
    link_folder(&golden("sd15/tokenizer"), folder.path(), &[]);
    let (stored, values) = (open(&vision("clip/model.safetensors")), open(&vision("clip.safetensors")));
    let get = |name: &str| values.get(name).unwrap_or_else(|e| panic!("{e}"));
    let (ids, rows) = (get("token_ids").to_i64().expect("ids"), get("token_rows"));
    let width = rows.shape[1];
    let mut table = vec![0.0f32; 49408 * width];
    for (id, row) in ids.iter().zip(rows.to_f32().expect("rows").chunks(width)) {
        table[*id as usize * width..][..width].copy_from_slice(row);
    }
    let table = Tensor::f32("text_model.embeddings.token_embedding.weight", &[49408, width], &table);
    let tensors: Vec<Tensor> = stored.iter().chain([table]).collect();
    portray::low_level::io::write_safetensors(&weights, &tensors, &Default::default()).expect("weights");
    folder
}
