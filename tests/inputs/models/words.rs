//! Words of tokenizers: added ones, and files as other tools write them.

use super::*;

#[test]
fn r06_words_that_a_model_adds_are_those_of_transformers() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("../../fixtures/tokens/added_tokens.json")).unwrap();
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/model/tokenizer");
    let mut wrong = Vec::new();
    for case in &cases {
        let dir = tempfile::tempdir().unwrap();
        for file in ["vocab.json", "merges.txt"] {
            fs::copy(own.join(file), dir.path().join(file)).unwrap();
        }
        for (file, content) in case["files"].as_object().unwrap() {
            fs::write(dir.path().join(file), content.to_string()).unwrap();
        }
        let tokenizer = ClipTokenizer::open(dir.path()).unwrap();
        for prompt in case["prompts"].as_array().unwrap() {
            let text = prompt[0].as_str().unwrap();
            let (ids, pad) = (prompt[1].as_array().unwrap(), prompt[2].as_u64().unwrap() as u32);
            let mut expected = vec![49406];
            expected.extend(ids.iter().map(|id| id.as_u64().unwrap() as u32));
            expected.push(49407);
            expected.resize(77, pad);
            let given = tokenizer.encode(text).unwrap().ids;
            if given != expected {
                let cut = |ids: &[u32]| ids[..12].to_vec();
                wrong.push(format!("{}: '{text}': {:?}, expected {:?}", case["name"], cut(&given), cut(&expected)));
            }
        }
        assert_eq!(!tokenizer.notes().is_empty(), case["name"] == "hole", "{:?}", tokenizer.notes());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn r06_a_whole_model_keeps_its_words() {
    let (dir, model) = golden("sd15");
    fs::write(model.join("tokenizer/added_tokens.json"), r#"{"<zorp>": 4}"#).unwrap();
    let source = Checkpoint::open(&model).unwrap();
    let out = dir.path().join("out");
    portray::low_level::io::write_diffusers_folder(&out, &source, &[]).unwrap();
    assert_eq!(fs::read(out.join("tokenizer/added_tokens.json")).unwrap(), br#"{"<zorp>": 4}"#);
    let mut said = Vec::new();
    let opened = Model::open(&options(&out), &[], &mut |_| Flow::Continue).unwrap();
    let ids = opened
        .tokens("a <zorp>", &mut |event| {
            said.push(format!("{event:?}"));
            Flow::Continue
        })
        .unwrap();
    assert_eq!(ids[0][..4], [2, 1, 4, 3]);
    assert!(said.len() == 1 && said[0].contains("<zorp>"), "{said:?}");
}

#[test]
fn r08_vocabulary_and_merges_may_begin_with_a_mark() {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/model/tokenizer");
    let dir = tempfile::tempdir().unwrap();
    for file in ["vocab.json", "merges.txt", "tokenizer_config.json"] {
        let text = fs::read_to_string(own.join(file)).unwrap();
        fs::write(dir.path().join(file), format!("\u{feff}{text}")).unwrap();
    }
    let ids = |folder: &Path| {
        ClipTokenizer::open(folder).unwrap().encode("a red cat, 12 o'clock").unwrap().ids[1..9].to_vec()
    };
    assert_eq!(ids(dir.path()), ids(&own));
    let merges = fs::read_to_string(own.join("merges.txt")).unwrap();
    let wide: Vec<u8> = std::iter::once(0xfeff).chain(merges.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    fs::write(dir.path().join("merges.txt"), wide).unwrap();
    let error = ClipTokenizer::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("merges.txt") && error.contains("UTF-16"), "{error}");
}
