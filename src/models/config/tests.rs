use super::*;

fn unet(text: &str) -> Result<UnetConfig> {
    UnetConfig::parse("unet/config.json", text)
}

#[test]
fn defaults_are_those_of_the_first_generation() {
    let config = unet("{}").unwrap();
    assert_eq!(config, UnetConfig::default());
    assert_eq!(config.time_embed_dim(), 1280);
    let config = unet(r#"{"attention_head_dim": [5, 10, 20, 20], "cross_attention_dim": 1024, "sample_size": 64}"#);
    assert_eq!(config.unwrap().attention_head_dim.get(3), 20);
}

#[test]
fn early_files_that_say_32_mean_64() {
    let side = |text: &str| unet(text).unwrap().latent_size()[0];
    assert_eq!(side(r#"{"sample_size": 32, "_diffusers_version": "0.6.0"}"#), 64);
    assert_eq!(side(r#"{"sample_size": 32, "_diffusers_version": "0.8.1"}"#), 64);
    for text in [
        r#"{"sample_size": 32, "_diffusers_version": "0.9.0.dev0"}"#,
        r#"{"sample_size": 32, "_diffusers_version": "0.10.2"}"#,
        r#"{"sample_size": 32, "_diffusers_version": "1.0"}"#,
        r#"{"sample_size": 32}"#,
        r#"{"sample_size": [32, 32], "_diffusers_version": "0.6.0"}"#,
    ] {
        assert_eq!(side(text), 32, "{text}");
    }
    assert_eq!(side(r#"{"sample_size": 96, "_diffusers_version": "0.6.0"}"#), 96);
    assert_eq!(unet(r#"{"sample_size": [40, 72]}"#).unwrap().latent_size(), [40, 72]);
}

#[test]
fn counts_have_limits() {
    let text = |text: &str| TextEncoderConfig::parse("text_encoder/config.json", text).map(drop);
    let vae = |text: &str| VaeConfig::parse("vae/config.json", text).map(drop);
    let unet = |text: &str| unet(text).map(drop);
    let many = format!(r#"{{"block_out_channels": {:?}}}"#, [32; 70]);
    for (result, words) in [
        (unet(r#"{"sample_size": 1152921504606846976}"#), ["sample_size is 1152921504606846976", "at most 4096"]),
        (unet(r#"{"sample_size": 0}"#), ["sample_size is 0", "1 or more"]),
        (unet(r#"{"sample_size": []}"#), ["sample_size has 0 values", "2"]),
        (unet(r#"{"sample_size": "64"}"#), ["sample_size is \"64\"", "expected a whole number"]),
        (unet(r#"{"attention_head_dim": null}"#), ["attention_head_dim is null", "expected a whole number"]),
        (unet(r#"{"in_channels": -4}"#), ["in_channels is -4", "usize"]),
        (unet(r#"{"layers_per_block": 1000000000}"#), ["layers_per_block", "at most 1000"]),
        (unet(r#"{"transformer_layers_per_block": 1001}"#), ["transformer_layers_per_block", "at most 1000"]),
        (unet(r#"{"cross_attention_dim": 4294967296}"#), ["cross_attention_dim", "at most 65536"]),
        (unet(&many), ["block_out_channels has 70 values", "1 to 12"]),
        (vae(&many), ["block_out_channels has 70 values", "1 to 12"]),
        (vae(r#"{"block_out_channels": [33554432]}"#), ["block_out_channels is 33554432", "at most 65536"]),
        (vae(r#"{"layers_per_block": 1000000}"#), ["layers_per_block", "at most 1000"]),
        (text(r#"{"num_hidden_layers": 1000000000}"#), ["num_hidden_layers is 1000000000", "at most 1000"]),
        (text(r#"{"vocab_size": 99999999999}"#), ["vocab_size", "at most 1048576"]),
        (text(r#"{"num_attention_heads": 2}"#), ["num_attention_heads is 2 for 512", "wider than 160"]),
    ] {
        let error = result.unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)) && error.contains("config.json: "), "{error}");
    }
}

#[test]
fn wide_heads_must_be_single() {
    let config = |heads: &str, channels: &str| {
        let types = r#""down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"]"#;
        unet(&format!(
            r#"{{{types}, "attention_head_dim": {heads}, "block_out_channels": {channels}, "norm_num_groups": 8}}"#
        ))
    };
    // The first resolution has no attention: its heads do not count.
    assert_eq!(config("[2, 1]", "[400, 200]").unwrap().widest_head(), 200);
    let error = config("2", "[64, 400]").unwrap_err().to_string();
    assert!(error.contains("2 for 400 channels") && error.contains("wider than 160 must be single"), "{error}");
}

const THREE: &str = r#""down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"], "block_out_channels": [32, 64, 128]"#;

#[test]
fn depths_are_read_as_diffusers_reads_them() {
    let three = |fields: &str| unet(&format!("{{{THREE}, {fields}}}"));
    let up = |config: &UnetConfig| (0..9).map(|i| config.up_depth(i / 3, i % 3)).collect::<Vec<_>>();
    let config = three(r#""transformer_layers_per_block": [1, 2, 10]"#).unwrap();
    assert_eq!([1, 2].map(|i| config.transformer_layers_per_block.get(i, 1)), [2, 10]);
    assert_eq!(up(&config), [10, 10, 10, 2, 2, 2, 1, 1, 1]);
    let nested = r#""transformer_layers_per_block": [0, [2, 3], [4, 5]], "mid_block_type": "UNetMidBlock2D""#;
    let reverse = r#""reverse_transformer_layers_per_block": [[4, 5, 6], 7, 1]"#;
    let config = three(&format!("{nested}, {reverse}")).unwrap();
    assert_eq!([0, 1].map(|layer| config.transformer_layers_per_block.get(2, layer)), [4, 5]);
    assert_eq!(up(&config), [4, 5, 6, 7, 7, 7, 1, 1, 1]);
    assert!(!config.middle_attends());
    for (fields, words) in [
        (nested.to_owned(), ["reverse_transformer_layers_per_block", "missing"]),
        (format!("{nested}, {}", reverse.replace("5, 6", "5")), ["2 values in list 0", "3 attentions"]),
        (format!("{}, {reverse}", nested.replace("[2, 3]", "[2]")), ["1 values in list 1", "2 attentions"]),
        (format!("{nested}, {}", reverse.replace(", 1]", "]")), ["reverse_transformer", "2 values for 3 blocks"]),
        (
            r#""transformer_layers_per_block": [1, 2, "3"]"#.into(),
            ["transformer_layers_per_block", "a list of numbers"],
        ),
    ] {
        let error = three(&fields).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{fields}: {error}");
    }
}

#[test]
fn added_embeddings_need_their_widths() {
    let [sines, width] = [("addition_time_embed_dim", 8), ("projection_class_embeddings_input_dim", 92)]
        .map(|(f, n)| format!(r#""{f}": {n}"#));
    let with = |fields: &str| unet(&format!(r#"{{"addition_embed_type": "text_time", {fields}}}"#));
    let config = with(&format!("{sines}, {width}")).unwrap();
    assert_eq!(config.added(), Some(AddedConfig { pooled: 44, time_embed_dim: 8 }));
    assert_eq!(unet(&format!("{{{sines}, {width}}}")).unwrap().added(), None);
    for (fields, words) in [
        (sines.clone(), "projection_class_embeddings_input_dim is missing"),
        (width.clone(), "addition_time_embed_dim is missing"),
        (format!("{sines}, {}", width.replace("92", "48")), "must be above 6 times addition_time_embed_dim, 48"),
        (format!("{width}, {}", sines.replace('8', "1")), "addition_time_embed_dim is 1, too small"),
    ] {
        let error = with(&fields).unwrap_err().to_string();
        assert!(error.contains(words), "{fields}: {error}");
    }
}

#[test]
fn a_list_of_what_is_allowed_is_allowed() {
    assert!(unet(r#"{"only_cross_attention": [false, false, false, false]}"#).is_ok());
    assert!(unet(r#"{"only_cross_attention": [false, true, false, false]}"#).is_err());
    assert!(unet(r#"{"only_cross_attention": []}"#).is_err());
}

#[test]
fn what_is_not_supported_is_named() {
    for (field, value) in [
        ("addition_embed_type", "\"text_image\""),
        ("act_fn", "\"gelu\""),
        ("dual_cross_attention", "true"),
        ("class_embed_type", "\"timestep\""),
        ("resnet_time_scale_shift", "\"scale_shift\""),
        ("only_cross_attention", "true"),
        ("mid_block_scale_factor", "2"),
        ("layers_per_block", "0"),
        ("norm_num_groups", "0"),
        ("norm_num_groups", "7"),
        ("attention_head_dim", "[8, 8]"),
        ("block_out_channels", "[]"),
        ("freq_shift", "400"),
        ("down_block_types", r#"["AttnDownBlock2D", "DownBlock2D", "DownBlock2D", "DownBlock2D"]"#),
    ] {
        let error = unet(&format!("{{\"{field}\": {value}}}")).unwrap_err().to_string();
        assert!(error.contains("unet/config.json") && error.contains(field), "{field} {value}: {error}");
    }
    assert!(unet("[").is_err() && unet("[]").is_err());
    let error = TextEncoderConfig::parse("text_encoder/config.json", r#"{"hidden_act": "mish"}"#).unwrap_err();
    assert!(error.to_string().contains("hidden_act"));
    let error = VaeConfig::parse("vae/config.json", r#"{"shift_factor": 0.1}"#).unwrap_err();
    assert!(error.to_string().contains("shift_factor"));
}
