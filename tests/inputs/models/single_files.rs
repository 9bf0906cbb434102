//! Models in one file, under the names of many tools: each is the model that its folder is.

use super::*;

/// Tensors of the tiny model `name` in one file, its text encoder's under transformers' names or OpenCLIP's, changed.
fn single(folder: &Path, name: &str, open_clip: bool) -> PathBuf {
    let model = RandomModel::named(name, 5).unwrap();
    let (parts, file) = (folder.join(name), folder.join(format!("{name}-{open_clip}.safetensors")));
    model.write_folder(&parts).unwrap();
    model.write_file(&file).unwrap();
    let text = stored(&parts.join(FILES[0].1));
    change(&file, |tensors| {
        tensors.retain(|t| !t.0.starts_with("cond_stage_model."));
        tensors.extend(if open_clip {
            as_open_clip(&text)
        } else {
            text.iter().cloned().map(|t| (format!("cond_stage_model.transformer.{}", t.0), t.1, t.2, t.3)).collect()
        });
    });
    file
}

/// OpenCLIP's names of a text encoder, queries, keys and values in one.
fn as_open_clip(text: &[Stored]) -> Vec<Stored> {
    let mut out: Vec<Stored> = Vec::new();
    for (name, dtype, shape, bytes) in text {
        let inside = name.trim_start_matches("text_model.");
        let name = match inside.strip_prefix("encoder.layers.") {
            None => match inside {
                "embeddings.token_embedding.weight" => "token_embedding.weight".into(),
                "embeddings.position_embedding.weight" => "positional_embedding".into(),
                other => other.replace("final_layer_norm", "ln_final"),
            },
            Some(rest) => {
                let (layer, rest) = rest.split_once('.').unwrap();
                let rest = [
                    ("layer_norm1", "ln_1"),
                    ("layer_norm2", "ln_2"),
                    ("mlp.fc1", "mlp.c_fc"),
                    ("mlp.fc2", "mlp.c_proj"),
                    ("self_attn.out_proj", "attn.out_proj"),
                ]
                .iter()
                .fold(rest.to_owned(), |rest, (from, to)| rest.replace(from, to));
                format!("transformer.resblocks.{layer}.{rest}")
            }
        };
        out.push((format!("cond_stage_model.model.{name}"), *dtype, shape.clone(), bytes.clone()));
    }
    let find = |out: &[Stored], name: &str| out.iter().find(|t| t.0 == name).cloned().unwrap();
    let queries: Vec<String> = out.iter().map(|t| t.0.clone()).filter(|n| n.contains(".q_proj.")).collect();
    for name in queries {
        let mut whole = find(&out, &name);
        for other in ["k_proj", "v_proj"] {
            whole.3.extend(find(&out, &name.replace("q_proj", other)).3);
        }
        whole.2[0] *= 3;
        whole.0 = name.replace("self_attn.q_proj.", "attn.in_proj_");
        out.push(whole);
    }
    out.retain(|t| !t.0.contains("self_attn."));
    out
}

/// That `file` is the model in `folder`: configurations, padding, and every tensor.
fn is_the_folder(file: &Path, folder: &Path) {
    let [file, folder] = [file, folder].map(|path| Checkpoint::open(path).unwrap());
    for (part, b) in folder.parts() {
        let a = file.part(part).unwrap();
        assert_eq!(a.config().as_object(), b.config().as_object(), "{part}");
        for tensor in b.iter() {
            let same = a.get_shaped(&tensor.name, &tensor.shape).unwrap();
            assert_eq!(same.bytes().unwrap(), tensor.bytes().unwrap(), "{}", tensor.name);
        }
    }
    assert_eq!(file.tokenizer().unwrap().pad(), folder.tokenizer().unwrap().pad());
}

#[test]
fn r03_a_generation_is_told_by_widths_and_projections() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["tiny-sd1", "tiny-sd2"] {
        for open_clip in [false, true] {
            let file = single(dir.path(), name, open_clip);
            is_the_folder(&file, &dir.path().join(name));
            let opened = Checkpoint::open(&file).unwrap();
            let act = if name == "tiny-sd2" { "gelu" } else { "quick_gelu" };
            assert_eq!(opened.part(PartId::TEXT_ENCODER).unwrap().config()["hidden_act"], act);
            // A width that neither generation has: that is a guess, and said.
            let said = Message::join(opened.notes(), "\n").to_string();
            let taken = if name == "tiny-sd2" { "Stable Diffusion 2.x" } else { "Stable Diffusion 1.x" };
            assert!(said.contains(&format!("taken for {taken}")) && said.contains("give a diffusers folder"), "{said}");
        }
    }
}

const SPELLINGS: [[&str; 4]; 5] = [
    ["q", "k", "v", "proj_out"],
    ["query", "key", "value", "proj_attn"],
    ["to_q", "to_k", "to_v", "to_out.0"],
    ["to_to_q", "to_to_k", "to_to_v", "to_out.0"],
    ["to_q", "to_k", "to_v", "to_out"],
];

#[test]
fn r04_the_autoencoders_attention_has_many_spellings() {
    let dir = tempfile::tempdir().unwrap();
    let model = RandomModel::named("tiny-sd1", 5).unwrap();
    let folder = dir.path().join("folder");
    model.write_folder(&folder).unwrap();
    let own = ["to_q", "to_k", "to_v", "to_out.0"];
    for (i, spelling) in SPELLINGS.iter().enumerate() {
        for flat in [true, false] {
            let path = dir.path().join(format!("{i}-{flat}.safetensors"));
            model.write_file(&path).unwrap();
            change(&path, |tensors| {
                for tensor in tensors.iter_mut().filter(|t| t.0.contains(".attn_1.")) {
                    let (module, leaf) = tensor.0.rsplit_once('.').unwrap();
                    let (front, last) = module.split_once(".attn_1.").unwrap();
                    let at = SPELLINGS[0].iter().position(|name| *name == last);
                    let module = at.map_or(last, |at| spelling[at]);
                    tensor.0 = format!("{front}.attn_1.{module}.{leaf}");
                    if flat && tensor.2.len() == 4 && at.is_some() {
                        tensor.2.truncate(2);
                    }
                }
            });
            is_the_folder(&path, &folder);
        }
        // In a folder alike.
        let path = dir.path().join(format!("folder-{i}"));
        copy(&folder, &path);
        change(&path.join(FILES[2].1), |tensors| {
            for tensor in tensors.iter_mut() {
                if let Some(at) = own.iter().position(|name| tensor.0.contains(&format!(".attentions.0.{name}."))) {
                    tensor.0 = tensor.0.replace(own[at], spelling[at]);
                    if tensor.2.len() == 2 {
                        tensor.2.extend([1, 1]);
                    }
                }
            }
        });
        is_the_folder(&path, &folder);
    }
}

#[test]
fn kind_wrapped_single_files_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let model = RandomModel::named("tiny-sd2", 5).unwrap();
    let folder = dir.path().join("folder");
    model.write_folder(&folder).unwrap();
    type Wrap = fn(&str) -> String;
    let wraps: [Wrap; 4] = [
        |name| format!("_orig_mod.{name}"),
        |name| format!("state_dict.{name}"),
        |name| name.replace("diffusion_model.", "diffusion_model._orig_mod."),
        |name| name.replace("first_stage_model.", "first_stage_model.module."),
    ];
    for (i, wrap) in wraps.into_iter().enumerate() {
        let path = dir.path().join(format!("{i}.safetensors"));
        model.write_file(&path).unwrap();
        rename(&path, wrap);
        is_the_folder(&path, &folder);
        let said = crate::support::stdout(&works(dir.path(), &format!("inspect {i}.safetensors")));
        assert!(said.contains("a single-file checkpoint"), "{said}");
    }
}
