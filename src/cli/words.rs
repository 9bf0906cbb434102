//! The command line's words for what the library's messages name as data: options as they are typed.

use portray::Error;
use portray::error::Words;

/// Names options by their flags: `sample_every` is `--sample-every`.
pub struct CommandLine;

impl Words for CommandLine {
    fn option(&self, name: &str) -> String {
        match name {
            "prompts" => "PROMPT".into(),
            "pictures" => "IMAGE".into(),
            "loras" => "--lora".into(),
            "prompt_list" => "--prompts".into(),
            "sample_prompts" => "--sample-prompt".into(),
            "input" => "--in".into(),
            _ => format!("--{}", name.replace('_', "-")),
        }
    }
}

/// `error` in the command line's words.
pub fn said(error: &Error) -> String {
    error.in_words(&CommandLine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn every_option_is_called_by_its_flag() {
        let cli = super::super::args::Cli::command();
        let mut commands: Vec<&clap::Command> = cli.get_subcommands().collect();
        let mut seen = 0;
        while let Some(command) = commands.pop() {
            commands.extend(command.get_subcommands());
            for (arg, long) in command.get_arguments().filter_map(|arg| Some((arg, arg.get_long()?))) {
                assert_eq!(CommandLine.option(arg.get_id().as_str()), format!("--{long}"));
                seen += 1;
            }
        }
        assert!(seen > 100, "{seen}");
    }
}
