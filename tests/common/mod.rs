//! What the integration tests share.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

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
    let folder = tempfile::tempdir().expect("a folder");
    let replaced = ["unet/config.json", "unet/diffusion_pytorch_model.safetensors"];
    link_folder(&fixtures.join("golden").join(kind), folder.path(), &replaced.map(|name| folder.path().join(name)));
    let [config, weights] = replaced.map(|name| fixtures.join("golden").join(kind).join(name));
    let text = std::fs::read_to_string(config).expect("a configuration");
    assert!(text.contains("\"in_channels\": 4"));
    let text = text.replace("\"in_channels\": 4", "\"in_channels\": 9");
    std::fs::write(folder.path().join(replaced[0]), text).expect("a configuration");
    let (weights, first) = (open(&weights), open(&fixtures.join(format!("inpaint/{kind}.safetensors"))));
    let others = weights.iter().filter(|tensor| tensor.name != "conv_in.weight");
    let tensors: Vec<_> = others.chain(first.get("conv_in.weight")).collect();
    portray::io::write_safetensors(folder.path().join(replaced[1]), &tensors, &Default::default()).expect("weights");
    folder
}

fn open(path: &Path) -> portray::io::SafeTensors {
    portray::io::SafeTensors::open(path).unwrap_or_else(|e| panic!("{e}"))
}

/// Puts the files of `from` into `to`, but those of `without`.
fn link_folder(from: &Path, to: &Path, without: &[PathBuf]) {
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
