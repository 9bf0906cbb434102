//! Arguments of `portray identifier`.

use std::path::PathBuf;

use clap::Args;
use portray::IdentifyOptions;

#[derive(Clone, Debug, Args)]
pub struct IdentifierArgs {
    #[command(flatten)]
    pub job: IdentifyOptions,
    /// Folder for report.json, report.html and images of each word
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Overwrite files of an earlier report in --out
    #[arg(long)]
    pub force: bool,
}
