//! `portray-bindgen IN.wasm FOLDER`: writes FOLDER/portray.js and FOLDER/portray_bg.wasm, what `wasm-bindgen
//! --target web` would write, without a tool that has to be installed beside cargo.

use std::path::Path;
use std::process::ExitCode;

use wasm_bindgen_cli_support::Bindgen;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let [input, folder] = args.as_slice() else {
        eprintln!("usage: portray-bindgen IN.wasm FOLDER");
        return ExitCode::from(2);
    };
    match generate(input.as_ref(), folder.as_ref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn generate(input: &Path, folder: &Path) -> Result<(), String> {
    let mut bindgen = Bindgen::new();
    bindgen.input_path(input).out_name("portray").typescript(false);
    // Names of functions and of the compiler would be a third of the download, and no page reads them.
    bindgen.keep_debug(false).remove_name_section(true).remove_producers_section(true);
    let made = bindgen.web(true).and_then(|b| b.generate(folder));
    made.map_err(|e| format!("{}: {e:#}", input.display()))
}
