//! Checks of a training's first optimizer steps: every adapter that can have a gradient has one, and moves. A LoRA that is
//! trained for hours and changes nothing is found after ten steps.

use crate::error::{Error, Result, message, option};
use crate::gpu::Store;
use crate::nn::{Param, Role};

use super::Trainer;
use super::plan::Setup;

/// Optimizer steps within which every adapter must have moved.
const STEPS: usize = 10;

/// Checks of the first optimizer steps.
pub(super) struct Sanity {
    /// Second factors of the adapters, which a training begins with zeros, with a checksum of their first values.
    adapters: Vec<(Param, u64)>,
    /// Those of them without a gradient so far; none if gradients are not stored.
    waiting: Vec<Param>,
    steps: usize,
    /// A step had a learning rate above zero.
    learned: bool,
}

impl Sanity {
    /// Takes note of the adapters of `trainer` as they are in `store`.
    pub async fn new(trainer: &Trainer, store: &Store) -> Result<Sanity> {
        let setup = trainer.setup();
        let able = |param: &&Param| {
            param.role == Role::Adapter && param.key.ends_with(".up") && !is_constant(&param.key, setup)
        };
        let mut adapters = Vec::new();
        for param in trainer.trained().filter(able) {
            adapters.push((param.clone(), checksum(&store.read(&param.key).await?)));
        }
        let waiting = adapters.iter().map(|(param, _)| param.clone()).filter(|_| !setup.fused).collect();
        Ok(Sanity { adapters, waiting, steps: 0, learned: false })
    }

    /// Looks at the adapters after an optimizer step at the learning rate `rate`, which may be the `last`.
    ///
    /// # Errors
    /// [`Error::Op`] if adapters had no gradient in the first ten steps, [`Error::Usage`] if they did not move.
    pub async fn check(&mut self, store: &Store, rate: f64, last: bool) -> Result<()> {
        if self.steps >= STEPS || self.adapters.is_empty() {
            return Ok(());
        }
        self.steps += 1;
        self.learned |= rate > 0.0;
        let mut without = Vec::new();
        for param in std::mem::take(&mut self.waiting) {
            let gradient: Vec<f32> = bytemuck::pod_collect_to_vec(&store.read(&format!("grad.{}", param.key)).await?);
            if gradient.iter().all(|&x| x == 0.0) {
                without.push(param);
            }
        }
        self.waiting = without;
        if self.steps < STEPS && !last {
            return Ok(());
        }
        let (all, steps) = (self.adapters.len(), self.steps);
        // The loss of a single step may have no weight: that of min-SNR at zero terminal SNR.
        let unweighted = steps == 1 && self.waiting.len() == all;
        if let Some(first) = self.waiting.first().filter(|_| !unweighted) {
            let which = some(self.waiting.len(), all, first);
            return Err(Error::op("train", format!("no gradient in the first {steps} steps reaches {which}")));
        }
        if unweighted || !self.learned {
            return Ok(());
        }
        let mut still = Vec::new();
        for (param, before) in &self.adapters {
            if checksum(&store.read(&param.key).await?) == *before {
                still.push(param);
            }
        }
        match still.first() {
            Some(first) => {
                let fault =
                    format!("{} did not move in the first {steps} steps: raise ", some(still.len(), all, first));
                Err(Error::usage("lr", message![fault, option("lr")]))
            }
            None => Ok(()),
        }
    }
}

/// `3 of 56 adapters (mid_block.attentions.0 is the first)`.
fn some(count: usize, all: usize, first: &Param) -> String {
    let name = first.key.trim_start_matches("lora.").trim_end_matches(".up");
    format!("{count} of {all} adapters ('{name}' is the first)")
}

/// Whether the adapter of `key` changes no prediction: of the queries or keys of a self-attention over a single position,
/// whose weights are 1 whatever they are.
fn is_constant(key: &str, setup: &Setup) -> bool {
    if !key.contains(".attn1.to_q.") && !key.contains(".attn1.to_k.") {
        return false;
    }
    let levels = setup.unet.block_out_channels.len();
    let index = |name: &str| key.split_once(name).and_then(|(_, rest)| rest.split('.').next()?.parse::<usize>().ok());
    let level = match (index("down_blocks."), index("up_blocks.")) {
        (Some(level), _) => level,
        (None, Some(block)) => levels.saturating_sub(block + 1),
        _ => levels.saturating_sub(1),
    };
    let [h, w, _] = setup.latent;
    let halved = |n: usize| (0..level).fold(n, |n, _| n.div_ceil(2));
    std::iter::once([h, w]).chain(setup.more_sizes.iter().copied()).all(|size| size.map(halved) == [1, 1])
}

/// FNV-1a.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Gpu, Pool, Variants};
    use crate::models::UnetConfig;
    use crate::nn::{LoraSpec, Settings, Targets, loading};
    use crate::train::plan::Recomputed;
    use crate::train::{Conditioning, MicroBatch, TrainPlan};

    fn setup(latent: [usize; 3]) -> Setup {
        let unet = r#"{"block_out_channels": [8, 8], "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "layers_per_block": 1, "attention_head_dim": 2,
            "norm_num_groups": 4, "cross_attention_dim": 8}"#;
        Setup {
            unet: UnetConfig::parse("unet/config.json", unet).unwrap(),
            texts: Vec::new(),
            lora: Some(LoraSpec { rank: 2, alpha: 2.0, targets: Targets::Attention }),
            text_lora: None,
            storage: Settings::default(),
            samples: [1, 0],
            latent,
            more_sizes: Vec::new(),
            captions: false,
            tokens: 3,
            checkpoint: Recomputed::None,
            accumulate: 1,
            optimizer: crate::train::Optimizer::AdamW,
            fused: false,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
        }
    }

    #[test]
    fn attention_over_one_position_needs_no_gradient() {
        let constant = |key: &str, latent| is_constant(&format!("lora.unet.{key}.up"), &setup(latent));
        let mid = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q";
        assert!(constant(mid, [2, 2, 4]) && constant(mid, [1, 1, 4]));
        assert!(!constant(mid, [2, 3, 4]) && !constant(&mid.replace("to_q", "to_v"), [2, 2, 4]));
        assert!(!constant(&mid.replace("attn1", "attn2"), [2, 2, 4]));
        assert!(!constant("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k", [2, 2, 4]));
        assert!(!constant("up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_k", [2, 2, 4]));
        assert!(constant("up_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k", [2, 2, 4]));
    }

    #[test]
    fn adapters_that_stay_as_they_were_are_named() {
        let setup = setup([4, 4, 4]);
        let gpu = pollster::block_on(Gpu::request(&Default::default())).unwrap();
        let plan = TrainPlan::new(&setup, gpu.caps(), &Variants::default()).unwrap();
        let params = plan.params.clone();
        let mut store = Store::new(&gpu);
        Trainer::allocate(&plan, &mut store).unwrap();
        loading::allocate(&mut store, "weights", &params).unwrap();
        for (i, param) in params.iter().enumerate().filter(|(_, param)| !param.key.ends_with(".up")) {
            let values = (0..param.bytes() / 4).map(|k| ((k as usize * 7 + i) % 13) as f32 * 0.05 - 0.3);
            store.write(&param.key, bytemuck::cast_slice(&values.collect::<Vec<_>>())).unwrap();
        }
        let mut trainer = pollster::block_on(Trainer::new(&gpu, plan, &mut Pool::default(), &store)).unwrap();
        let hidden = (0..24).map(|i| 0.1 * i as f32).collect();
        trainer.set_prompts(Conditioning::Context { hidden, tokens: 3, pooled: Vec::new() }).unwrap();
        let batch = MicroBatch {
            size: 0,
            prompts: vec![0],
            noisy: (0..64).map(|i| (i % 5) as f32 * 0.3).collect(),
            extra: Vec::new(),
            time_ids: Vec::new(),
            target: vec![1.0; 64],
            timesteps: vec![5.0],
            weights: vec![1.0],
            snr: vec![1.0],
            instances: 1,
        };
        let sanity = || pollster::block_on(Sanity::new(&trainer, &store)).unwrap();
        let check = |sanity: &mut Sanity, rate: f64, last: bool| {
            pollster::block_on(sanity.check(&store, rate, last)).map_err(|e| e.to_string())
        };
        // Gradients are zeros before the first step.
        let mut idle = sanity();
        assert!((1..STEPS).all(|_| check(&mut idle, 0.1, false).is_ok()));
        let message = check(&mut idle, 0.1, false).unwrap_err();
        assert!(message.contains("no gradient in the first 10 steps") && message.contains("attn1.to_"), "{message}");
        // A step without a learning rate gives gradients and moves nothing.
        let mut still = sanity();
        pollster::block_on(trainer.step(std::slice::from_ref(&batch), 0, [0.0; 2])).unwrap();
        let message = check(&mut still, 1e-30, true).unwrap_err();
        assert!(message.contains("did not move") && message.contains("lr"), "{message}");
        assert!(check(&mut sanity(), 0.0, true).is_ok(), "a warm-up");
        let mut learns = sanity();
        pollster::block_on(trainer.step(&[batch], 1, [0.1; 2])).unwrap();
        assert_eq!(check(&mut learns, 0.1, true), Ok(()));
    }
}
