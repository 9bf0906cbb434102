//! Images: found in folders, read as photos come, prepared as training takes them, written with their parameters.

mod captions;
mod filter;
mod folder;
mod jpeg;
mod kind;
mod mask;
mod png_file;
mod preprocess;
mod read;
mod resample;
mod thumbnail;
mod tiff;

pub use captions::Captions;
pub use filter::Filter;
pub use folder::{PictureFolder, list_pictures};
pub use mask::Mask;
pub use png_file::{Parameters, encode_png, title, write_png};
pub use preprocess::{Planes, Preprocessing, Resize};
pub use read::{Decoded, MAX_PIXELS, Picture, size};
pub use resample::{Crop, Fit, covering, cut};
pub use thumbnail::thumbnail;
