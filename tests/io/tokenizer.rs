//! The tokenizer against ids that `transformers` gave (fixtures/io/tokens.json and the golden files).

use std::fs;
use std::path::Path;

use portray::low_level::io::{ClipTokenizer, SafeTensors, Source, TokenizerFiles};
use serde_json::{Value, json};

use super::support::{golden, message};

/// golden.py's PROMPTS.
fn prompts() -> [String; 6] {
    [
        "a photo of a sks dog".into(),
        "a mscds cat wearing a crown, on the beach".into(),
        String::new(),
        "wow!! dog! hello!world".into(),
        "Café naïve — 3 dogs & “quotes”… 日本語 🐶 isn't it? UPPER   spaces\tand\nnewlines".into(),
        ["an exceedingly verbose description of a cat"; 20].join(" "),
    ]
}

fn ids(tokenizer: &ClipTokenizer, prompt: &str) -> Vec<i64> {
    tokenizer.encode(prompt).unwrap().ids.into_iter().map(i64::from).collect()
}

fn json_file(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// vocab.json and merges.txt, as older models have them, made from a tokenizer.json.
fn split(model: &str, into: &Path) {
    let bpe = &json_file(&golden(&format!("{model}/tokenizer/tokenizer.json")))["model"];
    fs::write(into.join("vocab.json"), bpe["vocab"].to_string()).unwrap();
    let rule = |pair: &Value| format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap());
    let rules: Vec<String> = bpe["merges"].as_array().unwrap().iter().map(rule).collect();
    fs::write(into.join("merges.txt"), format!("#version: 0.2\n{}\n", rules.join("\n"))).unwrap();
}

#[test]
fn golden_ids_by_either_route() {
    let expected = json_file(&golden("../io/tokens.json"));
    for (model, pad, own_file) in [("sd2", 0, "special_tokens_map.json"), ("sd15", 49407, "tokenizer_config.json")] {
        let whole = ClipTokenizer::open(golden(&format!("{model}/tokenizer"))).unwrap();
        let dir = tempfile::tempdir().unwrap();
        split(model, dir.path());
        // SD 2's tokenizer_config.json says the end token; special_tokens_map.json overrules it.
        fs::write(dir.path().join("tokenizer_config.json"), r#"{"pad_token":{"content":"<|endoftext|>"}}"#).unwrap();
        if own_file == "special_tokens_map.json" {
            fs::write(dir.path().join(own_file), r#"{"pad_token":"!"}"#).unwrap();
        }
        let parts = ClipTokenizer::open(dir.path()).unwrap();
        assert_eq!((whole.pad(), parts.pad(), whole.length(), parts.length()), (pad, pad, 77, 77));

        let file = SafeTensors::open(golden(&format!("{model}.safetensors"))).unwrap();
        let golden_ids = file.get("text.input_ids").unwrap().to_i64().unwrap();
        for (prompt, row) in prompts().iter().zip(golden_ids.chunks(77)) {
            assert_eq!(ids(&whole, prompt), row, "{model} {prompt:?}");
            assert_eq!(ids(&parts, prompt), row, "{model} {prompt:?} from vocab.json");
        }
        let texts = expected["prompts"].as_array().unwrap();
        assert!(texts.len() >= 40);
        for (prompt, row) in texts.iter().zip(expected["ids"][model].as_array().unwrap()) {
            let (prompt, row): (_, Vec<i64>) = (prompt.as_str().unwrap(), serde_json::from_value(row.clone()).unwrap());
            assert_eq!(ids(&whole, prompt), row, "{model} {prompt:?}");
            assert_eq!(ids(&parts, prompt), row, "{model} {prompt:?} from vocab.json");
        }
    }
}

#[test]
fn the_exclamation_mark_pads_in_sd2_only() {
    let encode = |model: &str| {
        let tokenizer = ClipTokenizer::open(golden(&format!("{model}/tokenizer"))).unwrap();
        tokenizer.encode("!").unwrap().ids[..4].to_vec()
    };
    assert_eq!(encode("sd2"), [49406, 0, 49407, 0]);
    assert_eq!(encode("sd15"), [49406, 256, 49407, 49407]);
}

#[test]
fn what_is_cut_is_told() {
    let tokenizer = ClipTokenizer::open(golden("sd15/tokenizer")).unwrap();
    let fits = tokenizer.encode(&"dog ".repeat(75)).unwrap();
    assert_eq!(fits.truncated, None);
    let long = tokenizer.encode(&format!("{}the Rest of it", "dog ".repeat(75))).unwrap();
    assert_eq!(long.truncated.as_deref(), Some("the Rest of it"));
    assert_eq!((long.ids.len(), long.ids[76]), (77, 49407));
    // A cut inside one character keeps that character whole in the message.
    let emoji = tokenizer.encode(&format!("{}\u{1f9ff}\u{1f9ff}", "dog ".repeat(74))).unwrap();
    assert!(emoji.truncated.is_some_and(|t| t.chars().all(|c| c == '\u{1f9ff}')));
}

#[test]
fn faults_are_named() {
    let dir = tempfile::tempdir().unwrap();
    assert!(message(ClipTokenizer::open(dir.path().join("no"))).contains("lacks this folder"));
    assert!(message(ClipTokenizer::open(dir.path())).contains("neither tokenizer.json nor vocab.json with merges.txt"));
    let open = |files: &[(&'static str, &'static [u8])]| {
        let files = files.iter().map(|(name, bytes)| (*name, Source::from_static(format!("t/{name}"), bytes)));
        message(ClipTokenizer::from_files(&TokenizerFiles::new("t", files)))
    };
    assert!(open(&[("tokenizer.json", b"{}")]).starts_with("t/tokenizer.json: not a tokenizer"));
    assert!(open(&[("tokenizer.json", b"\xff\xfe")]).starts_with("t/tokenizer.json: not UTF-8"));
    assert!(open(&[("vocab.json", b"[1]"), ("merges.txt", b"")]).contains("t/vocab.json: is JSON, but not an object"));
    assert!(open(&[("vocab.json", b"{\"a\":0}"), ("merges.txt", b"\xff")]).contains("t/merges.txt: not UTF-8"));
    assert!(open(&[("vocab.json", b"{\"a\":-1}"), ("merges.txt", b"")]).contains("t/vocab.json: not a tokenizer"));
    let e = open(&[("vocab.json", b"{\"a\":0}"), ("merges.txt", b"q r")]);
    assert!(e.contains("t/vocab.json: not a tokenizer"), "{e}");
    let e = open(&[("vocab.json", b"{\"a\":0}"), ("merges.txt", b"#version: 0.2\n")]);
    assert!(e.contains("lacks the special token '<|startoftext|>'"), "{e}");
    let e = open(&[("special_tokens_map.json", b"{"), ("vocab.json", b"{\"a\":0}"), ("merges.txt", b"")]);
    assert!(e.starts_with("t/special_tokens_map.json: not valid JSON"), "{e}");
}

#[test]
fn a_file_that_is_cut_anywhere_is_told_and_what_is_not_known_is_left_alone() {
    let whole = r##"{"version":"1.0","truncation":{"max_length":Infinity},"added_tokens":[{"id":0,"content":"<|startoftext|>"},
        {"id":1,"content":"<|endoftext|>"}],"normalizer":{"type":"Lowercase"},"pre_tokenizer":null,
        "post_processor":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true},
        "decoder":{"type":"ByteLevel","add_prefix_space":NaN,"more":{"a":[1,{"b":2}]}},
        "model":{"type":"BPE","dropout":null,"later":{"a":[1]},"vocab":{"<|startoftext|>":0,"<|endoftext|>":1,"a":2,"b":3,
        "ab":4},"merges":["#version: 0.2","a b"]}}"##;
    let open = |text: &str| {
        let source = Source::from_bytes("t/tokenizer.json", text.as_bytes().to_vec());
        ClipTokenizer::from_files(&TokenizerFiles::new("t", [("tokenizer.json", source)]))
    };
    assert_eq!(open(whole).unwrap().encode("AB").unwrap().ids[..3], [0, 4, 1]);
    assert_eq!(
        open(&whole.replace("\"a b\"", "[\"a\",\"b\"]").replace("\"#version: 0.2\",", ""))
            .unwrap()
            .encode("ab")
            .unwrap()
            .ids[1],
        4
    );
    for end in 0..whole.len() {
        let e = message(open(&whole[..end]));
        assert!(e.starts_with("t/tokenizer.json: "), "cut at {end}: {e}");
    }
    for (from, to, said) in [
        ("\"BPE\"", "\"WordPiece\"", "model.type is WordPiece, CLIP's is BPE"),
        ("a b\"", "a b c\"", "'a b c' is not two tokens"),
        ("\"a b\"", "7", "model.merges: expected a list of pairs"),
        ("\"Lowercase\"", "\"Louder\"", "not a tokenizer that can be read"),
    ] {
        let e = message(open(&whole.replace(from, to)));
        assert!(e.starts_with("t/tokenizer.json: not a tokenizer") && e.contains(said), "{e}");
    }
}

#[test]
fn the_context_length_is_the_models() {
    let dir = tempfile::tempdir().unwrap();
    split("sd15", dir.path());
    let open = |length: Value| {
        let config = json!({ "model_max_length": length }).to_string();
        fs::write(dir.path().join("tokenizer_config.json"), config).unwrap();
        let tokenizer = ClipTokenizer::open(dir.path()).unwrap();
        (tokenizer.length(), tokenizer.encode("a b c d e f g h i").unwrap().ids.len())
    };
    assert_eq!(open(json!(8)), (8, 8));
    assert_eq!(open(json!(1e30)), (77, 77));
    assert_eq!(open(json!(0)), (2, 2));
}
