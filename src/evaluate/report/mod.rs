//! Report of an evaluation: `report.json` as data, `report.html` as a page.

mod html;
mod plots;
mod schema;

pub(super) use html::{Thumbnails, page};
pub use schema::{Column, Image, Judges, Nearest, PromptFigures, Report, SCHEMA, Twin};
