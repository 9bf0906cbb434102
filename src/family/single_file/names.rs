//! The names that the original code (CompVis and Stability AI) gives the tensors of a model, beside those of diffusers.
//!
//! One table a part, of modules and the few tensors that are named apart; below a module both agree.

use crate::family::description::TextFlavour;
use crate::io::PartId;
use crate::io::checkpoints::names::{Names, Stored, VAE_ATTENTION_SPELLINGS};

/// Structure of a model, as far as its names depend on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Structure {
    /// Resolutions of the UNet.
    pub unet_blocks: usize,
    /// Residual blocks of each of its down blocks.
    pub unet_layers: usize,
    /// Number of blocks, from the lowest resolution up, without attention.
    pub unet_plain: usize,
    /// Resolutions of the autoencoder.
    pub vae_blocks: usize,
    /// Residual blocks of each of its encoder's blocks.
    pub vae_layers: usize,
    /// Its text encoders.
    pub texts: Vec<TextNames>,
}

/// Text encoder in a single file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextNames {
    /// Part that it is.
    pub part: PartId,
    /// Beginning of its tensors' names.
    pub prefix: &'static str,
    /// Names behind that.
    pub flavour: TextFlavour,
    /// Layers that are read, as diffusers counts them.
    pub layers: usize,
    /// Whether the projection of its pooled state is read.
    pub projects: bool,
}

/// Beginning of the names of a UNet in a single file.
pub const UNET: &str = "model.diffusion_model.";
/// Beginning of the names of an autoencoder in a single file.
pub const VAE: &str = "first_stage_model.";

impl Structure {
    /// Beginning of the names of `part` in the file.
    fn prefix(&self, part: PartId) -> &'static str {
        match part {
            PartId::UNET => UNET,
            PartId::VAE => VAE,
            _ => self.texts.iter().find(|text| text.part == part).map_or("", |text| text.prefix),
        }
    }
}

impl Names {
    /// The names of `part` of a model of that structure.
    pub fn new(part: PartId, structure: &Structure) -> Names {
        Names::behind(structure.prefix(part), part, structure)
    }

    /// The names of `part` of a model of that structure, each behind `prefix`.
    pub fn behind(prefix: &str, part: PartId, structure: &Structure) -> Names {
        let mut names = Names::with_prefix(prefix);
        match part {
            PartId::UNET => unet(&mut names, structure),
            PartId::VAE => vae(&mut names, structure),
            _ => {
                if let Some(text) = structure.texts.iter().find(|text| text.part == part) {
                    text_encoder(&mut names, text);
                }
            }
        }
        names
    }
}

fn text_encoder(names: &mut Names, text: &TextNames) {
    match text.flavour {
        TextFlavour::Clip => names.pair("text_model", "text_model"),
        TextFlavour::BareClip => {
            for module in ["embeddings", "encoder", "final_layer_norm"] {
                names.pair(format!("text_model.{module}"), module);
            }
        }
        TextFlavour::OpenClip => open_clip(names, text.layers),
    }
    if text.projects {
        let original = if text.flavour == TextFlavour::OpenClip { "text_projection" } else { "text_projection.weight" };
        let stored = if text.flavour == TextFlavour::OpenClip { Stored::Transposed } else { Stored::Whole };
        names.stored("text_projection.weight", original, stored);
        // A converter that writes a linear layer's weight writes it as transformers has it.
        for other in ["text_projection.weight", "text_projection.weight.weight"] {
            names.also("text_projection.weight".into(), other.into());
        }
    }
}

const UNET_RESNET: [[&str; 2]; 6] = [
    ["norm1", "in_layers.0"],
    ["conv1", "in_layers.2"],
    ["time_emb_proj", "emb_layers.1"],
    ["norm2", "out_layers.0"],
    ["conv2", "out_layers.3"],
    ["conv_shortcut", "skip_connection"],
];

fn unet(names: &mut Names, structure: &Structure) {
    let Structure { unet_blocks: blocks, unet_layers: layers, .. } = *structure;
    for [canonical, original] in [
        ["conv_in", "input_blocks.0.0"],
        ["time_embedding.linear_1", "time_embed.0"],
        ["time_embedding.linear_2", "time_embed.2"],
        ["conv_norm_out", "out.0"],
        ["conv_out", "out.2"],
        ["mid_block.attentions.0", "middle_block.1"],
        ["add_embedding.linear_1", "label_emb.0.0"],
        ["add_embedding.linear_2", "label_emb.0.2"],
    ] {
        names.pair(canonical, original);
    }
    names.pairs(["mid_block.resnets.0", "middle_block.0"], &UNET_RESNET);
    names.pairs(["mid_block.resnets.1", "middle_block.2"], &UNET_RESNET);
    for block in 0..blocks {
        // The first input block is conv_in, and each downsampler counts as one.
        for layer in 0..layers {
            let at = block * (layers + 1) + layer + 1;
            names.pairs(
                [&format!("down_blocks.{block}.resnets.{layer}"), &format!("input_blocks.{at}.0")],
                &UNET_RESNET,
            );
            names.pair(format!("down_blocks.{block}.attentions.{layer}"), format!("input_blocks.{at}.1"));
        }
        if block + 1 < blocks {
            let at = (block + 1) * (layers + 1);
            names.pair(format!("down_blocks.{block}.downsamplers.0.conv"), format!("input_blocks.{at}.0.op"));
        }
        for layer in 0..=layers {
            let at = block * (layers + 1) + layer;
            names
                .pairs([&format!("up_blocks.{block}.resnets.{layer}"), &format!("output_blocks.{at}.0")], &UNET_RESNET);
            names.pair(format!("up_blocks.{block}.attentions.{layer}"), format!("output_blocks.{at}.1"));
        }
        // The upsampler stands behind the attention, or in its place where the block has none.
        let (at, slot) = (block * (layers + 1) + layers, if block < structure.unet_plain { 1 } else { 2 });
        names.pair(format!("up_blocks.{block}.upsamplers.0.conv"), format!("output_blocks.{at}.{slot}.conv"));
    }
}

const VAE_ATTENTION: [[&str; 2]; 5] =
    [["group_norm", "norm"], ["to_q", "q"], ["to_k", "k"], ["to_v", "v"], ["to_out.0", "proj_out"]];

fn vae(names: &mut Names, structure: &Structure) {
    let Structure { vae_blocks: blocks, vae_layers: layers, .. } = *structure;
    names.pair("quant_conv", "quant_conv");
    names.pair("post_quant_conv", "post_quant_conv");
    let resnet = |names: &mut Names, canonical: String, original: String| {
        names.pair(format!("{canonical}.conv_shortcut"), format!("{original}.nin_shortcut"));
        names.pair(canonical, original);
    };
    for half in ["encoder", "decoder"] {
        names.pairs([half, half], &[["conv_in", "conv_in"], ["conv_norm_out", "norm_out"], ["conv_out", "conv_out"]]);
        for i in 0..2 {
            resnet(names, format!("{half}.mid_block.resnets.{i}"), format!("{half}.mid.block_{}", i + 1));
        }
        let (canonical, original) = (format!("{half}.mid_block.attentions.0"), format!("{half}.mid.attn_1"));
        names.pairs([&canonical, &original], &VAE_ATTENTION);
        for (module, spellings) in VAE_ATTENTION_SPELLINGS {
            spellings
                .iter()
                .for_each(|other| names.also(format!("{canonical}.{module}"), format!("{original}.{other}")));
        }
    }
    for block in 0..blocks {
        // The original counts the decoder's blocks from the highest resolution down as well.
        let up = blocks - 1 - block;
        for layer in 0..layers {
            let canonical = format!("encoder.down_blocks.{block}.resnets.{layer}");
            resnet(names, canonical, format!("encoder.down.{block}.block.{layer}"));
        }
        for layer in 0..=layers {
            let canonical = format!("decoder.up_blocks.{block}.resnets.{layer}");
            resnet(names, canonical, format!("decoder.up.{up}.block.{layer}"));
        }
        let (down_conv, up_conv) = ("downsamplers.0.conv", "upsamplers.0.conv");
        names.pair(format!("encoder.down_blocks.{block}.{down_conv}"), format!("encoder.down.{block}.downsample.conv"));
        names.pair(format!("decoder.up_blocks.{block}.{up_conv}"), format!("decoder.up.{up}.upsample.conv"));
    }
}

fn open_clip(names: &mut Names, layers: usize) {
    names.pair("text_model.embeddings.token_embedding", "token_embedding");
    names.pair("text_model.embeddings.position_embedding.weight", "positional_embedding");
    names.pair("text_model.final_layer_norm", "ln_final");
    for i in 0..layers {
        let (canonical, original) = (format!("text_model.encoder.layers.{i}"), format!("transformer.resblocks.{i}"));
        let modules = [
            ["layer_norm1", "ln_1"],
            ["layer_norm2", "ln_2"],
            ["mlp.fc1", "mlp.c_fc"],
            ["mlp.fc2", "mlp.c_proj"],
            ["self_attn.out_proj", "attn.out_proj"],
        ];
        names.pairs([&canonical, &original], &modules);
        for (third, projection) in ["q_proj", "k_proj", "v_proj"].into_iter().enumerate() {
            for tensor in ["weight", "bias"] {
                let canonical = format!("{canonical}.self_attn.{projection}.{tensor}");
                names.stored(canonical, format!("{original}.attn.in_proj_{tensor}"), Stored::Third(third));
            }
        }
    }
}
