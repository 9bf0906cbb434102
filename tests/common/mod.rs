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
