//! What is said of arguments that make no sense: clap's messages on one line.

use std::any::TypeId;
use std::ffi::{OsStr, OsString};
use std::num::{IntErrorKind, ParseFloatError, ParseIntError};
use std::path::PathBuf;

use clap::CommandFactory as _;
use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use portray::LoraArg;
use portray::low_level::evaluate::ScaledLora;

use super::Cli;

/// Renders clap's message on one line, without the usage text after it.
pub fn one_line(error: &clap::Error) -> String {
    let source = std::error::Error::source(error);
    // Messages of the library's own name the option already.
    if let Some(own) = source.map(ToString::to_string).filter(|text| text.starts_with("--")) {
        return own;
    }
    let mut text = error.render().to_string();
    if let Some((said, plain)) = source.and_then(|e| Some((e.to_string(), number(e)?))) {
        text = text.replace(&said, plain);
    }
    let end = |line: &&str| !line.starts_with("Usage:") && !line.starts_with("For more information");
    let lines: Vec<&str> = text.lines().map(str::trim).take_while(end).filter(|line| !line.is_empty()).collect();
    lines.join(" ").trim_start_matches("error: ").to_owned()
}

/// Parser that refuses an argument that is not UTF-8 and names the option, which clap does not.
#[derive(Clone)]
struct Text;

impl TypedValueParser for Text {
    type Value = String;

    fn parse_ref(&self, _: &clap::Command, arg: Option<&clap::Arg>, value: &OsStr) -> Result<String, clap::Error> {
        let named = || arg.map_or_else(|| "an argument".into(), ToString::to_string);
        value.to_str().map(ToOwned::to_owned).ok_or_else(|| {
            let (name, value) = (named(), value.to_string_lossy());
            let message =
                format!("{name}: '{value}' is not UTF-8 text: give it in UTF-8 (the terminal's locale decides)");
            clap::Error::raw(ErrorKind::InvalidUtf8, message)
        })
    }
}

/// Renders the error of the arguments `args` on one line, naming the option whose value is not UTF-8.
pub fn refusal(error: &clap::Error, args: impl IntoIterator<Item = OsString>) -> String {
    if error.kind() != ErrorKind::InvalidUtf8 {
        return one_line(error);
    }
    // Paths alone need not be text.
    fn asking(command: clap::Command) -> clap::Command {
        let is_path = |arg: &clap::Arg| {
            let kind = arg.get_value_parser().type_id();
            kind == TypeId::of::<PathBuf>() || kind == TypeId::of::<LoraArg>() || kind == TypeId::of::<ScaledLora>()
        };
        let ask = |arg: clap::Arg| match is_path(&arg) || !arg.get_action().takes_values() {
            true => arg,
            false => arg.value_parser(Text),
        };
        command.mut_args(ask).mut_subcommands(asking)
    }
    let named = asking(Cli::command()).try_get_matches_from(args).err();
    one_line(named.as_ref().unwrap_or(error))
}

/// Says in plain words what a number must be, if `error` is the standard library's, which speaks of digits and literals.
fn number(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    match error.downcast_ref::<ParseIntError>().map(ParseIntError::kind) {
        Some(IntErrorKind::PosOverflow) => Some("is too large"),
        Some(_) => Some("must be a whole number, 0 or more"),
        None => error.is::<ParseFloatError>().then_some("must be a number"),
    }
}
