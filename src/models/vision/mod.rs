//! Image towers: ViT (Dosovitskiy et al. 2020, arXiv 2010.11929) as DINO trains it, DINOv2 with and without registers
//! (Oquab et al. 2023, arXiv 2304.07193; Darcet et al. 2023, arXiv 2309.16588), and CLIP's.

mod config;
mod fields;
mod names;
mod positions;
mod tower;

pub use config::{VisionConfig, VisionKind};
pub use names::{Stored, fold, stored};
pub use positions::{Tokens, check_image, grid, patches};
pub use tower::VisionTower;
