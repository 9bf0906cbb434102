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

#[test]
fn a_list_of_what_is_allowed_is_allowed() {
    assert!(unet(r#"{"only_cross_attention": [false, false, false, false]}"#).is_ok());
    assert!(unet(r#"{"only_cross_attention": [false, true, false, false]}"#).is_err());
    assert!(unet(r#"{"only_cross_attention": []}"#).is_err());
}

#[test]
fn what_is_not_supported_is_named() {
    for (field, value) in [
        ("addition_embed_type", "\"text_time\""),
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
    let error = TextEncoderConfig::parse("text_encoder/config.json", r#"{"hidden_act": "relu"}"#).unwrap_err();
    assert!(error.to_string().contains("hidden_act"));
    let error = VaeConfig::parse("vae/config.json", r#"{"shift_factor": 0.1}"#).unwrap_err();
    assert!(error.to_string().contains("shift_factor"));
}
