//! The names that the original code (CompVis and Stability AI) gives the tensors of a model, beside those of diffusers.
//!
//! One table a part, of modules and the few tensors that are named apart; below a module both agree.

use std::collections::HashMap;

use super::super::Part;

/// Structure of a model, as far as its names depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// Whose text encoder it is.
    pub text: TextFlavour,
    /// Its layers, as diffusers counts them.
    pub text_layers: usize,
}

/// Whose code the text encoder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextFlavour {
    /// OpenAI's CLIP under the names of transformers: Stable Diffusion 1.x.
    Clip,
    /// CLIP under the names of the first releases, which lack the segment `text_model`.
    BareClip,
    /// OpenCLIP: Stable Diffusion 2.x.
    OpenClip,
}

/// A third of a tensor's rows: OpenCLIP keeps the weights of queries, keys and values in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Third(pub usize);

/// Both names of every tensor of one part.
#[derive(Clone, Debug)]
pub struct Names {
    prefix: &'static str,
    originals: HashMap<String, Vec<(String, Option<Third>)>>,
    canonicals: HashMap<String, (String, Option<Third>)>,
}

impl Names {
    /// The names of `part` of a model of that structure.
    pub fn new(part: Part, structure: &Structure) -> Names {
        let mut names =
            Names { prefix: prefix(part, structure.text), originals: HashMap::new(), canonicals: HashMap::new() };
        match part {
            Part::Unet => unet(&mut names, structure),
            Part::Vae => vae(&mut names, structure),
            Part::TextEncoder => match structure.text {
                TextFlavour::Clip => names.pair("text_model", "text_model"),
                TextFlavour::BareClip => {
                    for module in ["embeddings", "encoder", "final_layer_norm"] {
                        names.pair(format!("text_model.{module}"), module);
                    }
                }
                TextFlavour::OpenClip => open_clip(&mut names, structure.text_layers),
            },
        }
        names
    }

    /// Prefix of every name of the part in the file.
    pub fn prefix(&self) -> &'static str {
        self.prefix
    }

    /// Diffusers' names of what the file calls `original`, each with its third of the rows where it is one; none for
    /// what this part has no use for.
    pub fn canonical(&self, original: &str) -> Vec<(String, Option<Third>)> {
        let Some(inside) = original.strip_prefix(self.prefix) else { return Vec::new() };
        let Some((found, tail)) = lookup(&self.originals, inside) else { return Vec::new() };
        found.iter().map(|(canonical, third)| (format!("{canonical}{tail}"), *third)).collect()
    }

    /// The name in the file of diffusers' `canonical`.
    pub fn original(&self, canonical: &str) -> Option<(String, Option<Third>)> {
        let ((original, third), tail) = lookup(&self.canonicals, canonical)?;
        Some((format!("{}{original}{tail}", self.prefix), *third))
    }

    fn pair(&mut self, canonical: impl Into<String>, original: impl Into<String>) {
        self.part_of(canonical, original, None);
    }

    fn part_of(&mut self, canonical: impl Into<String>, original: impl Into<String>, third: Option<Third>) {
        let (canonical, original) = (canonical.into(), original.into());
        self.originals.entry(original.clone()).or_default().push((canonical.clone(), third));
        self.canonicals.insert(canonical, (original, third));
    }

    /// `original` is another name of `canonical`, beside that which [`Names::original`] gives.
    fn also(&mut self, canonical: String, original: String) {
        self.originals.entry(original).or_insert_with(|| vec![(canonical, None)]);
    }

    fn pairs(&mut self, [canonical, original]: [&str; 2], modules: &[[&str; 2]]) {
        for [ours, theirs] in modules {
            self.pair(format!("{canonical}.{ours}"), format!("{original}.{theirs}"));
        }
    }
}

/// The entry of the longest module path that `name` begins with, and the rest of the name.
fn lookup<'t, 'n, V>(table: &'t HashMap<String, V>, name: &'n str) -> Option<(&'t V, &'n str)> {
    let ends = std::iter::once(name.len()).chain(name.rmatch_indices('.').map(|(i, _)| i));
    ends.into_iter().find_map(|end| Some((table.get(&name[..end])?, &name[end..])))
}

/// Prefix of every name of `part` in the file.
pub fn prefix(part: Part, text: TextFlavour) -> &'static str {
    match (part, text) {
        (Part::Unet, _) => "model.diffusion_model.",
        (Part::Vae, _) => "first_stage_model.",
        (Part::TextEncoder, TextFlavour::Clip | TextFlavour::BareClip) => "cond_stage_model.transformer.",
        (Part::TextEncoder, TextFlavour::OpenClip) => "cond_stage_model.model.",
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

/// Spellings of these modules in various tools: the original's names, those of diffusers before 0.18 and since, and
/// those of scripts that insert the latter twice.
const VAE_ATTENTION_SPELLINGS: [(&str, &[&str]); 5] = [
    ("group_norm", &["group_norm", "norm"]),
    ("to_q", &["q", "query", "to_q", "to_to_q"]),
    ("to_k", &["k", "key", "to_k", "to_to_k"]),
    ("to_v", &["v", "value", "to_v", "to_to_v"]),
    ("to_out.0", &["proj_out", "proj_attn", "to_out.0", "to_out", "to_to_out.0", "to_to_out", "proj_out.0"]),
];

/// Diffusers' name of the module of a VAE's attention that `name` begins with, and the rest of `name`.
pub fn vae_attention(name: &str) -> Option<(&'static str, &str)> {
    let (module, leaf) = name.rsplit_once('.')?;
    let (canonical, _) = VAE_ATTENTION_SPELLINGS.iter().find(|(_, spellings)| spellings.contains(&module))?;
    Some((canonical, &name[name.len() - leaf.len() - 1..]))
}

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
                names.part_of(canonical, format!("{original}.attn.in_proj_{tensor}"), Some(Third(third)));
            }
        }
    }
}
