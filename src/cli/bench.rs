//! `portray bench`.

use std::path::Path;

use portray::engine::Engine;
use portray::{Error, Result};

/// Measures `engine`'s adapter; with `dump` also writes every kernel as rendered into that folder.
pub fn run(_engine: &Engine, _dump: Option<&Path>) -> Result<()> {
    Err(Error::Usage("bench: not measured yet".into()))
}
