//! Trainings of the SDXL family replayed against what PyTorch and PEFT recorded (`tests/fixtures/xl`, by
//! `tests/fixtures/make_xl.py`).

use std::path::Path;

use super::{Allowed, Change, EXACT, Recording, follow};
use crate::common;
use portray::{Checkpointing, LoraFormat, ModelOptions, Targets, TrainOptions, WeightType};

/// The job that `run.json` of MODEL-WHAT describes, of rank 2.
fn job(model: &Path, replay: &Path, init: &Path, out: &Path) -> TrainOptions {
    TrainOptions {
        model: ModelOptions { model: Some(model.to_owned()), dtype: WeightType::F32, ..Default::default() },
        replay: Some(replay.to_owned()),
        init_lora: Some(init.to_owned()),
        rank: 2,
        lr: Some(1e-3),
        batch: 2,
        weight_decay: 1e-2,
        format: LoraFormat::Peft,
        out: out.to_owned(),
        ..Default::default()
    }
}

fn replay(kind: &str, what: &str, tag: &str, change: Change<'_>, allowed: Allowed) -> Result<(), String> {
    let (fixtures, folder) = (common::xl(&format!("{kind}-{what}")), tempfile::tempdir().expect("a folder"));
    let (out, start) = (folder.path().join("lora.safetensors"), fixtures.join("init.lora-peft.safetensors"));
    let mut job = job(&common::xl(kind), &fixtures.join("replay.safetensors"), &start, &out);
    match tag {
        "min-snr" => job.min_snr = Some(5.0),
        "mixed" => (job.max_grad_norm, job.prior_weight, job.accumulate) = (0.1, 0.5, 2),
        _ => {}
    }
    if what == "text" {
        (job.targets, job.text_encoder, job.text_lr) = (Targets::All, true, Some(5e-4));
    }
    change(&mut job);
    let steps = fixtures.join(format!("{tag}.jsonl"));
    let recording = Recording { steps, end: fixtures.join(format!("{tag}.final.safetensors")), start };
    follow(&job, &out, &recording, allowed)
}

/// Every run, and among them every way to recompute and to update: they come to the same.
#[test]
fn lora_of_the_attentions() {
    let recomputing = |how| move |job: &mut TrainOptions| job.checkpointing = how;
    let fused = |job: &mut TrainOptions| (job.fused_update, job.checkpointing) = (true, Checkpointing::On);
    let runs: [(&str, &str, Change<'_>); 6] = [
        ("xl", "plain", &recomputing(Checkpointing::Off)),
        ("xl", "min-snr", &recomputing(Checkpointing::Blocks)),
        ("xl", "mixed", &recomputing(Checkpointing::On)),
        ("xl-v", "plain", &fused),
        ("xl-v", "min-snr", &|_| ()),
        ("xl-v", "mixed", &|_| ()),
    ];
    let mut wrong = Vec::new();
    for (kind, tag, change) in runs {
        if let Err(e) = replay(kind, "train", tag, change, EXACT) {
            wrong.push(format!("{kind} {tag}: {e}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn both_text_encoders() {
    replay("xl", "text", "plain", &|_| (), EXACT).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn an_inpainting_model() {
    let (model, folder) = (common::xl_inpainting_model(), tempfile::tempdir().expect("a folder"));
    let out = folder.path().join("lora.safetensors");
    let start = common::xl("xl-train/init.lora-peft.safetensors");
    let job = job(model.path(), &common::xl("inpaint.replay.safetensors"), &start, &out);
    let recording =
        Recording { steps: common::xl("inpaint.jsonl"), end: common::xl("inpaint.final.safetensors"), start };
    follow(&job, &out, &recording, EXACT).unwrap_or_else(|e| panic!("{e}"));
}
