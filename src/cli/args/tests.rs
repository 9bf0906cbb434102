//! The command line's arguments, parsed.

use std::ffi::OsString;

use clap::CommandFactory as _;

use super::refusals::one_line;
use super::*;

#[test]
fn definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn errors_take_one_line() {
    for args in [
        &["portray", "generate"][..],
        &["portray", "generate", "x", "--sampler", "bogus"],
        &["portray", "generate", "x", "--steps", "-3"],
        &["portray", "train", "--lr", "fast"],
        &["portray", "watch", "generate"],
        &["portray", "generate", "x", "--sede", "1"],
    ] {
        let error = Cli::try_parse_from(args).unwrap_err();
        let line = one_line(&error);
        assert!(!line.contains('\n') && !line.contains("Usage") && !line.starts_with("error"), "{line}");
        assert!(line.len() > 20, "{line}");
    }
}

#[test]
fn numbers_that_are_none_are_told_what_they_must_be() {
    for (option, value, must) in [
        ("--seed", "1.5", "must be a whole number, 0 or more"),
        ("--seed", "99999999999999999999", "is too large"),
        ("--width", "wide", "must be a whole number, 0 or more"),
        ("--guidance", "high", "must be a number"),
    ] {
        let line = one_line(&Cli::try_parse_from(["portray", "generate", "x", option, value]).unwrap_err());
        assert!(line.contains(option) && line.contains(value) && line.ends_with(must), "{line}");
    }
}

#[cfg(unix)]
#[test]
fn what_is_no_text_is_named_and_paths_need_not_be() {
    use std::os::unix::ffi::OsStringExt as _;
    let line = |line: &str| -> Vec<OsString> {
        let word = |word: &str| {
            OsString::from_vec(word.replace('?', "\u{1}").bytes().map(|b| if b == 1 { 0xe4 } else { b }).collect())
        };
        std::iter::once("portray").chain(line.split_whitespace()).map(word).collect()
    };
    for (given, named) in [
        ("generate ?", "<PROMPT>"),
        ("generate --force ? --out ?", "<PROMPT>"),
        ("generate x --out ? --negative a?", "--negative <TEXT>"),
        ("generate x --negative=a?", "--negative <TEXT>"),
        ("train --images ? --prompt ?", "--prompt <TEXT>"),
        ("train --images ? --prompt x --class-prompt ?", "--class-prompt <TEXT>"),
        ("train --images ? --prompt x --sample-prompt y --sample-prompt ?", "--sample-prompt <TEXT>"),
        ("generate x --steps ?", "--steps <N>"),
        ("generate x --sampler ?", "--sampler"),
        ("generate x --dtype ?", "--dtype"),
        ("info --adapter ?", "--adapter"),
        ("plan train --images ? --prompt ?", "--prompt <TEXT>"),
        ("watch generate ?", "<PROMPT>"),
        ("forward text --out ? --prompt ?", "--prompt <TEXT>"),
        ("convert ? --out ? --format ?", "--format"),
    ] {
        let error = Cli::try_parse_from(line(given)).unwrap_err();
        let said = refusal(&error, line(given));
        assert!(said.contains(named) && said.contains('\u{fffd}'), "{given}: {said}");
        // What is one of a few words is told them.
        assert!(said.contains("UTF-8") || said.contains("possible values"), "{given}: {said}");
        assert!(!said.contains('\n') && error.exit_code() == 2, "{given}: {said}");
    }
    for given in [
        "generate x --out ? --model ? --init ? --mask ? --latents-out ? --lora ? --lora ?=0.5",
        "train --images ? --prompt x --class-prompt y --class-images ? --out ? --model ? --init-lora ?",
        "train --replay ? --out ?",
        "inspect ? --model ?",
        "convert ? --out ? --model ? --format kohya",
        "forward text --in ? --out ? --lora ?",
        "bench --dump ?",
        "demo --out ? --images ? --prompt x --class-prompt y",
    ] {
        Cli::try_parse_from(line(given)).unwrap_or_else(|e| panic!("{given}: {e}"));
    }
}

/// A page leaves out what it does not ask for: that has to mean the same there.
#[test]
fn the_library_has_the_command_lines_defaults() {
    let job = |line: &[&str]| Cli::try_parse_from(line).unwrap().command;
    let Command::Train(train) = job(&["portray", "train"]) else { panic!("no training") };
    assert_eq!(train.job, portray::TrainOptions::default());
    let Command::Generate(generate) = job(&["portray", "generate", "x"]) else { panic!("no images") };
    let expected = portray::GenerateOptions { prompts: vec!["x".into()], ..Default::default() };
    assert_eq!(generate.job, expected);
}

#[test]
fn design_command_lines_parse() {
    for line in [
        "generate a_cat --model m --lora a=0.5 --lora b --negative blurry --steps 7 --guidance 5 --guidance-rescale 0.7 --sampler dpm++2m --karras \
         --spacing trailing --prediction v --seed 1 --rng philox --width 48 --height 40 --count 2 --init i.png --mask m.png --strength 0.5 \
         --dtype f16 --memory 12G --out o --force --latents-out l.safetensors --adapter 0 --json",
        "train --images d --prompt p --class-prompt c --class-count 12 --prior-weight 1 --method lora --rank 8 --alpha 4 \
         --targets all --text-encoder --text-lr 1e-4 --steps 3 --lr 1e-3 --schedule cosine --warmup 2 --batch 2 --accumulate 2 \
         --weight-decay 0 --max-grad-norm 1 --min-snr 5 --offset-noise 0.1 --checkpointing on --resolution 64 --crop random \
         --flip --seed 3 --init-lora f --save-every 5 --resume --sample-prompt x --sample-every 4 --evaluate-every 5 --stop plateau --keep-out 1 --dtype f32 --format peft-folder \
         --out o",
        "train --replay r --init-lora i --rank 4 --lr 1e-3 --format peft --out o --json",
        "plan train --images d --prompt p",
        "plan generate x --steps 3",
        "inspect x --model m",
        "convert l --format kohya --out o",
        "forward vae-encode --model m --in a --out b --lora c",
        "info",
        "bench --dump d",
        "demo --subject dog --check",
        "watch generate x --steps 3 --seed 4",
        "watch train --images d --prompt p --sample-prompt x --adapter 0",
    ] {
        let args = std::iter::once("portray").chain(line.split_whitespace());
        if let Err(e) = Cli::try_parse_from(args) {
            panic!("{line}: {e}");
        }
    }
}
