//! Pictures: read as photos come, prepared as training takes them, written with their parameters.

mod png_file;
mod read;
mod resample;

pub use png_file::{Parameters, encode_png, write_png};
pub use read::{MAX_PIXELS, Picture, caption, list_pictures};
pub use resample::Crop;
