//! Files that are damaged, of other adapters or of other families: each is refused in one line.

use portray::low_level::io::Source;

use super::super::support::Stream;
use super::*;

#[test]
fn damage_is_named() {
    const L: &str = "lora_unet_mid_block_resnets_0_conv1";
    let refused = |shapes: &[(&str, &[usize])], says: &[&str]| {
        let named: Vec<_> = shapes.iter().map(|(end, shape)| (format!("{L}.{end}"), *shape)).collect();
        let e = message(open(&halves(&named.iter().map(|(n, s)| (n.as_str(), *s)).collect::<Vec<_>>())));
        for part in says.iter().chain(&["x.safetensors: ", "the file is damaged, get it again"]) {
            assert!(e.contains(part), "'{part}' is not in: {e}");
        }
    };
    let one = "'unet.mid_block.resnets.0.conv1' has only one of its two factors";
    refused(&[("lora_down.weight", &[2, 4])], &[one]);
    refused(&[("lora_mid.weight", &[2, 2, 3, 3])], &[one]);
    refused(&[("hada_w1_a", &[4, 2]), ("hada_w1_b", &[2, 4])], &[one]);
    refused(&[("lokr_w2", &[4, 4])], &[one]);
    refused(&[("lokr_w1", &[4, 4]), ("lokr_w2_a", &[4, 4])], &["conv1.lokr_w2_a': lacks its other factor"]);
    refused(&[("lokr_w1", &[4, 4]), ("lokr_t2", &[4, 4, 3, 3])], &["conv1.lokr_t2': lacks its other factor"]);
    refused(&[("lokr_w1", &[4, 4]), ("lokr_w2", &[2, 2]), ("lokr_w1_a", &[4, 1])], &["lokr_w1_a': does not go with"]);
    refused(&[("alpha", &[])], &["has an alpha but no factors"]);
    refused(&[("diff", &[8, 4]), ("lokr_w1", &[4, 4]), ("lokr_w2", &[2, 1])], &["is changed in two ways at once"]);
    for shape in [&[][..], &[8], &[8, 0], &[0, 1 << 40]] {
        refused(&[("diff", shape)], &["conv1.diff': has shape", "expected"]);
    }
    refused(&[("diff_b", &[8, 1])], &["diff_b': has shape [8, 1], expected 1 extents"]);
    let loha = |shapes: [&'static [usize]; 4], says: &[&str]| {
        let ends = ["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"];
        refused(&[0, 1, 2, 3].map(|i| (ends[i], shapes[i])), says);
    };
    loha(
        [&[8, 2], &[3, 4], &[8, 2], &[2, 4]],
        &["conv1.hada_w1_a': shape [8, 2] does not fit", "hada_w1_b' with shape [3, 4]"],
    );
    loha([&[8, 2], &[2, 4], &[8, 2], &[2, 5]], &["multiply to [8, 4] and [8, 5], which must be alike"]);
    loha([&[8, 2], &[2, 6, 3, 1], &[8, 2], &[2, 6, 1, 3]], &["multiply to [8, 6, 3, 1] and [8, 6, 1, 3]"]);
    loha([&[8, 2, 1], &[2, 4], &[8, 2], &[2, 4]], &["hada_w1_a': has shape [8, 2, 1], expected 2 extents above 0"]);
    refused(&[("lokr_w1", &[2, 2, 3, 3]), ("lokr_w2", &[2, 2])], &["first LoKr factor of [2, 2, 3, 3]"]);
    let tucker = |core: &'static [usize], says: &str| {
        refused(&[("lokr_w1", &[2, 2]), ("lokr_t2", core), ("lokr_w2_a", &[3, 4]), ("lokr_w2_b", &[2, 5])], &[says]);
    };
    tucker(&[2, 3, 3, 3], "lokr_t2': shape [2, 3, 3, 3] does not fit its factors of [3, 4] and [2, 5]");
    tucker(&[3, 2, 3], "lokr_t2': has shape [3, 2, 3], expected 4 extents");
    let locon = |middle: &'static [usize], says: &str| {
        refused(
            &[("lora_down.weight", &[2, 4, 1, 1]), ("lora_up.weight", &[8, 2, 1, 1]), ("lora_mid.weight", middle)],
            &[says, "lora_mid.weight'"],
        );
    };
    locon(&[2, 3, 3, 3], "shape [2, 3, 3, 3] does not fit a first factor of [2, 4, 1, 1]");
    locon(&[2, 2, 3, 30], "a window is 3x3 at most");

    // Every tensor in turn with a NaN, and the file cut short.
    let file = SafeTensors::open(fixture("lycoris.safetensors")).unwrap();
    for (i, name) in file.names().enumerate() {
        let e = message(changed(|t| {
            let mut bytes = t.bytes().unwrap().to_vec();
            bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
            let spoiled = Tensor::raw(t.name.to_string(), t.dtype, &t.shape, bytes.leak());
            Some(if t.name == name { spoiled } else { t })
        }));
        assert!(e.contains(&format!("'{name}': holds NaN (element 0)")), "{i}: {e}");
    }
    let bytes = std::fs::read(fixture("lycoris.safetensors")).unwrap();
    for length in [0, 7, 8, 100, bytes.len() / 2, bytes.len() - 1] {
        let cut = LoraFile::from_source(Source::from_bytes("cut.safetensors", &bytes[..length]), None);
        assert!(message(cut).starts_with("cut.safetensors: "), "{length}");
    }
}

#[test]
fn other_adapters_and_families_are_named() {
    let down = "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight";
    for (end, says) in [
        ("dora_scale", "is of DoRA, which rescales the whole weight beside changing it and so cannot be added to it"),
        ("on_input", "an (IA)3"),
        ("oft_blocks", "an OFT"),
        ("a1.weight", "a GLoRA"),
    ] {
        let name = format!("lora_unet_mid_block_attentions_0_proj_in.{end}");
        let e = message(open(&halves(&[(down, &[2, 4]), (&name, &[1, 4])])));
        assert!(e.contains(says) && e.contains(&name) && e.contains(": give a LoRA, LoCon, LoHa or LoKr"), "{e}");
    }
    let sd15 = portray::low_level::io::Checkpoint::open(golden("sd15")).unwrap().modules();
    let text = sd15.of(PartId::TEXT_ENCODER).find(|(path, _)| path.ends_with("self_attn.q_proj")).unwrap();
    let stem = format!("lora_te1_{}", text.0.replace('.', "_"));
    let own = [format!("{stem}.lora_down.weight"), format!("{stem}.lora_up.weight")];
    for (name, family) in [
        ("lora_unet_joint_blocks_0_x_block_attn_qkv.lokr_w1", "Stable Diffusion 3"),
        ("lycoris_single_transformer_blocks_0_attn_to_q.lokr_w1", "Flux"),
        ("diffusion_model.double_blocks.0.img_attn.qkv.lokr_w1", "Flux"),
        ("lycoris_transformer_blocks_0_attn_to_q.lokr_w1", "a diffusion transformer"),
    ] {
        // Alone, and beside layers of a text encoder that Stable Diffusion 1.x has too.
        for beside in [false, true] {
            let mut shapes: Vec<(&str, &[usize])> = vec![(name, &[2, 2])];
            let (rows, columns) = ([text.1[0], 2], [2, text.1[1]]);
            if beside {
                shapes.extend([(own[0].as_str(), &columns[..]), (own[1].as_str(), &rows[..])]);
            }
            let file = open(&halves(&shapes)).unwrap();
            if beside && family.starts_with("a ") {
                continue;
            }
            let e = message(file.match_report(&sd15).check());
            assert!(e.contains("LoRA of another model") && e.contains(&format!("made for {family}")), "{e}");
            assert!(e.contains("Portray takes LoRAs of Stable Diffusion 1.x, 2.x and XL"), "{e}");
            let dir = tempfile::tempdir().unwrap();
            let e = message(file.write(dir.path().join("o"), LoraFormat::Kohya));
            assert!(e.contains(if family.starts_with("a ") { "nothing to write" } else { family }), "{e}");
        }
    }
}

/// Whatever is in a file, it is read or refused in one line, and what is read can be used.
#[test]
fn nothing_in_a_file_panics() {
    let model = layers();
    let try_out = |file: portray::Result<LoraFile>| -> bool {
        let Ok(file) = file else {
            message(file);
            return false;
        };
        let report = file.match_report(&model);
        drop(report.check());
        let _ = (file.kinds(), file.rank(), file.parameters(), file.made_for());
        for key in &report.matched {
            let (shape, bias) = (&model.layers[&PartId::UNET][&key.path], model.biases.get(key).copied().unwrap_or(0));
            added(&file, key, shape, bias, 1.0);
        }
        drop(file.write(tempfile::tempdir().unwrap().path().join("o"), LoraFormat::Kohya));
        true
    };
    let mut stream = Stream(7);
    let bytes = std::fs::read(fixture("lycoris.safetensors")).unwrap();
    for _ in 0..300 {
        try_out(LoraFile::from_source(Source::from_bytes("m", stream.mutate(&bytes)), None));
    }
    const ENDS: [&str; 19] = [
        "lora_down.weight",
        "lora_up.weight",
        "lora_mid.weight",
        "hada_w1_a",
        "hada_w1_b",
        "hada_w2_a",
        "hada_w2_b",
        "hada_t1",
        "hada_t2",
        "lokr_w1",
        "lokr_w1_a",
        "lokr_w1_b",
        "lokr_w2",
        "lokr_w2_a",
        "lokr_w2_b",
        "lokr_t2",
        "diff",
        "diff_b",
        "alpha",
    ];
    const GROUPS: [&[usize]; 7] =
        [&[0, 1], &[0, 1, 2], &[3, 4, 5, 6], &[3, 4, 5, 6, 7, 8], &[9, 13, 14], &[9, 13, 14, 15], &[16, 17]];
    let mut read = 0;
    for _ in 0..600 {
        let mut ends = GROUPS[stream.below(GROUPS.len())].to_vec();
        if stream.below(4) == 0 {
            ends.push(stream.below(ENDS.len()));
        }
        ends.sort_unstable();
        ends.dedup();
        let named: Vec<(String, Vec<usize>)> = ends
            .iter()
            .map(|&end| {
                let usual = if [2, 7, 8, 15].contains(&end) { 4 } else { 2 };
                let extents = [usual, usual, usual, usual, usual, usual, 4, 1, 3][stream.below(9)];
                let shape = (0..extents).map(|_| [2, 2, 2, 2, 2, 2, 2, 2, 1, 3, 0][stream.below(11)]).collect();
                let shape = if ENDS[end] == "alpha" { Vec::new() } else { shape };
                (format!("lora_unet_mid_block_resnets_0_conv1.{}", ENDS[end]), shape)
            })
            .collect();
        let shapes: Vec<_> = named.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())).collect();
        read += usize::from(try_out(open(&halves(&shapes))));
    }
    assert!(read > 20, "{read} of 600 could be read");
}
