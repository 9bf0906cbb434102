//! Layouts of LoRA files, one entry each. To read another one with endings of its own, add a variant and its row here.
//!
//! | layout | who writes it | a key |
//! |---|---|---|
//! | A | diffusers before 0.18 | `unet.….attn1.processor.to_q_lora.down.weight` |
//! | B | diffusers' `train_dreambooth_lora.py` | `unet.….attn1.to_q.lora.down.weight` |
//! | C | diffusers with PEFT | `unet.….attn1.to_q.lora_A.weight` |
//! | D | PEFT's `save_pretrained`, a folder a part | `base_model.model.….attn1.to_q.lora_A.weight` |
//! | E | kohya's sd-scripts, read by most programs | `lora_unet_…_attn1_to_q.lora_down.weight` |
//! | F | LyCORIS: more kinds under E's layer names | `….lora_mid.weight`, `….hada_w1_a`, `….lokr_w2`, `….diff` |
//! | G | ComfyUI, OneTrainer: the original code's names, with dots | `diffusion_model.input_blocks.1.1.….lora_up.weight` |
//! | H | who saves the state of a diffusers UNet, before PEFT | `….attn1.to_q.lora_layer.down.weight` |

use serde::{Serialize, Serializer};

/// Tensor of a module that a key names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    Down,
    Up,
    Alpha,
    /// One of LyCORIS's, by its own name.
    Lycoris(&'static str),
}

/// Layout of a LoRA file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `….to_q_lora.down.weight`
    OldDiffusers,
    /// `….to_q.lora.down.weight`
    Diffusers,
    /// `unet.….to_q.lora_A.weight`
    DiffusersPeft,
    /// `base_model.model.….to_q.lora_A.weight`
    Peft,
    /// `lora_unet_…_to_q.lora_down.weight`
    Kohya,
    /// `….hada_w1_a`, `….lokr_w2`, `….diff`
    Lycoris,
    /// `diffusion_model.input_blocks.1.1.….lora_up.weight`
    Original,
    /// `….to_q.lora_layer.down.weight`
    DiffusersState,
}

/// Name of a layout, and the endings that only its keys have.
struct Row {
    letter: char,
    writer: &'static str,
    endings: &'static [(&'static str, Role)],
}

impl Layout {
    /// Every layout.
    pub const ALL: [Layout; 8] = [
        Layout::OldDiffusers,
        Layout::Diffusers,
        Layout::DiffusersPeft,
        Layout::Peft,
        Layout::Kohya,
        Layout::Lycoris,
        Layout::Original,
        Layout::DiffusersState,
    ];

    const fn row(self) -> Row {
        match self {
            Layout::OldDiffusers => Row {
                letter: 'A',
                writer: "diffusers before 0.18",
                endings: &[("_lora.down.weight", Role::Down), ("_lora.up.weight", Role::Up)],
            },
            Layout::Diffusers => Row {
                letter: 'B',
                writer: "diffusers' training scripts",
                endings: &[
                    (".lora_linear_layer.down.weight", Role::Down),
                    (".lora_linear_layer.up.weight", Role::Up),
                    (".lora.down.weight", Role::Down),
                    (".lora.up.weight", Role::Up),
                ],
            },
            // PEFT puts an adapter's name inside the ending: `keys.rs` reads these two.
            Layout::DiffusersPeft => Row { letter: 'C', writer: "diffusers with PEFT", endings: &[] },
            Layout::Peft => Row { letter: 'D', writer: "PEFT folder", endings: &[] },
            Layout::Kohya => Row {
                letter: 'E',
                writer: "kohya",
                endings: &[(".lora_down.weight", Role::Down), (".lora_up.weight", Role::Up), (".alpha", Role::Alpha)],
            },
            Layout::Lycoris => Row {
                letter: 'F',
                writer: "LyCORIS",
                endings: &[
                    (".lora_mid.weight", Role::Lycoris("lora_mid.weight")),
                    (".hada_w1_a", Role::Lycoris("hada_w1_a")),
                    (".hada_w1_b", Role::Lycoris("hada_w1_b")),
                    (".hada_w2_a", Role::Lycoris("hada_w2_a")),
                    (".hada_w2_b", Role::Lycoris("hada_w2_b")),
                    (".hada_t1", Role::Lycoris("hada_t1")),
                    (".hada_t2", Role::Lycoris("hada_t2")),
                    (".lokr_w1", Role::Lycoris("lokr_w1")),
                    (".lokr_w1_a", Role::Lycoris("lokr_w1_a")),
                    (".lokr_w1_b", Role::Lycoris("lokr_w1_b")),
                    (".lokr_w2", Role::Lycoris("lokr_w2")),
                    (".lokr_w2_a", Role::Lycoris("lokr_w2_a")),
                    (".lokr_w2_b", Role::Lycoris("lokr_w2_b")),
                    (".lokr_t2", Role::Lycoris("lokr_t2")),
                    (".diff", Role::Lycoris("diff")),
                    (".diff_b", Role::Lycoris("diff_b")),
                    // What LyCORIS adds to a norm's factors and offsets is a difference by another name.
                    (".w_norm", Role::Lycoris("diff")),
                    (".b_norm", Role::Lycoris("diff_b")),
                ],
            },
            // The endings of others; its layers' names tell it.
            Layout::Original => Row { letter: 'G', writer: "ComfyUI, OneTrainer", endings: &[] },
            // `lora_layer` is the field of its `LoRACompatibleLinear` and `LoRACompatibleConv`.
            Layout::DiffusersState => Row {
                letter: 'H',
                writer: "state of a diffusers model",
                endings: &[(".lora_layer.down.weight", Role::Down), (".lora_layer.up.weight", Role::Up)],
            },
        }
    }

    /// Its letter, by which `inspect` and JSON call it.
    pub fn letter(self) -> char {
        self.row().letter
    }

    /// Letter and the programs that write it: `E (kohya)`.
    pub fn describe(self) -> String {
        let Row { letter, writer, .. } = self.row();
        format!("{letter} ({writer})")
    }

    /// The part of `key` before an ending of this layout, and the ending's tensor.
    pub(super) fn split(self, key: &str) -> Option<(&str, Role)> {
        self.row().endings.iter().find_map(|&(ending, role)| Some((key.strip_suffix(ending)?, role)))
    }
}

impl Serialize for Layout {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_char(self.letter())
    }
}
