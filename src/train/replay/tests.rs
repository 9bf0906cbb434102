use std::collections::BTreeMap;

use super::*;
use crate::io::{Source, write_safetensors};

/// A replay of two micro-batches of one sample, 2 channels, 1x2 latents.
fn tensors() -> Vec<Tensor<'static>> {
    let mut out = vec![
        Tensor::f32("context.instance", &[1, 2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
        Tensor::f32("context.prior", &[1, 2, 3], &[6.0, 7.0, 8.0, 9.0, 10.0, 11.0]),
    ];
    for i in 0..2 {
        for (part, values, t) in
            [("instance", &[1.0, 2.0, 3.0, 4.0], &[10i64]), ("prior", &[5.0, 6.0, 7.0, 8.0], &[20])]
        {
            out.push(Tensor::f32(format!("{i}.{part}.latents"), &[1, 2, 1, 2], values));
            out.push(Tensor::f32(format!("{i}.{part}.noise"), &[1, 2, 1, 2], values));
            out.push(Tensor::i64(format!("{i}.{part}.timesteps"), &[1], t));
        }
    }
    out
}

fn open(tensors: &[Tensor<'_>]) -> Result<Replay> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("replay.safetensors");
    write_safetensors(&path, tensors, &BTreeMap::new()).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    Replay::from_file(SafeTensors::from_source(Source::from_bytes("replay.safetensors", bytes))?)
}

fn replaced(name: &str, with: Option<Tensor<'static>>) -> Vec<Tensor<'static>> {
    tensors().into_iter().filter(|t| t.name != name).chain(with).collect()
}

fn fault(tensors: &[Tensor<'_>]) -> String {
    let message = match open(tensors) {
        Ok(replay) => replay.draw(1).unwrap_err().to_string(),
        Err(e) => e.to_string(),
    };
    assert!(message.starts_with("replay.safetensors: "), "{message}");
    message
}

#[test]
fn reads_instance_then_prior_channels_last() {
    let replay = open(&tensors()).unwrap();
    assert_eq!((replay.micro_steps(), replay.samples(), replay.latent()), (2, [1, 1], [1, 2, 2]));
    let draw = replay.draw(1).unwrap();
    assert_eq!(draw.latents, [1.0, 3.0, 2.0, 4.0, 5.0, 7.0, 6.0, 8.0]);
    assert_eq!((draw.noise.len(), draw.timesteps, draw.instances), (8, vec![10, 20], 1));
    let context: Vec<f32> = (0..12).map(|i| i as f32).collect();
    let expected = Conditioning::Context { hidden: context, tokens: 2, pooled: Vec::new() };
    assert_eq!(replay.conditioning().unwrap(), expected);
    assert!(replay.check_added(None, 1).is_ok());
    assert!(replay.draw(2).unwrap_err().to_string().contains("holds 2 micro-batches"));
}

#[test]
fn reads_token_ids_and_runs_without_prior() {
    let mut only: Vec<_> = tensors().into_iter().filter(|t| t.name.contains("instance")).collect();
    assert_eq!(open(&only).unwrap().samples(), [1, 0]);
    only.retain(|t| t.name != "context.instance");
    only.push(Tensor::i64("ids.instance", &[1, 3], &[49406, 320, 49407]));
    let replay = open(&only).unwrap();
    let expected = Conditioning::Ids { ids: vec![vec![49406, 320, 49407]], tokens: 3 };
    assert_eq!(replay.conditioning().unwrap(), expected);
    assert!(replay.check_added(None, 1).is_ok());
    // Another model's ids.
    assert!(replay.check_added(None, 2).unwrap_err().to_string().contains("'ids_2.instance'"));
    only.push(Tensor::i64("ids_2.instance", &[1, 3], &[49406, 320, 0]));
    let replay = open(&only).unwrap();
    let expected = Conditioning::Ids { ids: vec![vec![49406, 320, 49407], vec![49406, 320, 0]], tokens: 3 };
    assert_eq!(replay.conditioning().unwrap(), expected);
    assert!(replay.check_added(None, 2).is_ok());
    assert!(replay.check_added(None, 1).unwrap_err().to_string().contains("one text encoder"));
    *only.last_mut().unwrap() = Tensor::i64("ids_2.instance", &[1, 2], &[49406, 0]);
    assert!(open(&only).is_err_and(|e| e.to_string().contains("2 tokens a prompt")));
    assert_eq!(replay.draw(0).unwrap().timesteps, [10]);
}

#[test]
fn masks_and_masked_latents_are_read_together() {
    let mut with = tensors();
    for (i, part) in [(0, "instance"), (0, "prior"), (1, "instance"), (1, "prior")] {
        with.push(Tensor::f32(format!("{i}.{part}.mask"), &[1, 1, 1, 2], &[1.0, 0.0]));
        with.push(Tensor::f32(format!("{i}.{part}.masked_latents"), &[1, 2, 1, 2], &[0.1, 0.2, 0.3, 0.4]));
    }
    let replay = open(&with).unwrap();
    assert!(replay.masked() && !open(&tensors()).unwrap().masked());
    let sample = [1.0, 0.1, 0.3, 0.0, 0.2, 0.4];
    assert_eq!(replay.draw(0).unwrap().extra, [sample, sample].concat());
    with.retain(|t| t.name != "1.prior.masked_latents");
    assert!(fault(&with).contains("no tensor '1.prior.masked_latents'"));
    with.retain(|t| t.name != "0.instance.mask");
    assert!(fault(&with).contains("no tensor '0.instance.mask'"));
}

#[test]
fn sizes_and_pooled_embeddings_are_read_and_asked_for() {
    let mut with = tensors();
    let fault = |tensors: &[Tensor<'_>], pooled| match open(tensors) {
        Ok(replay) => replay.check_added(pooled, 2).unwrap_err().to_string(),
        Err(e) => e.to_string(),
    };
    let message = fault(&with, Some(2));
    assert!(message.contains("'I.instance.time_ids' and 'I.prior.time_ids'"), "{message}");
    let ids: Vec<[f32; 6]> = (0..4).map(|i| [0, 1, 2, 3, 4, 5].map(|k| (10 * i + k) as f32)).collect();
    for (values, (i, part)) in ids.iter().zip([(0, "instance"), (0, "prior"), (1, "instance"), (1, "prior")]) {
        with.push(Tensor::f32(format!("{i}.{part}.time_ids"), &[1, 6], values));
    }
    assert!(fault(&with, None).contains("reads no sizes"));
    let message = fault(&with, Some(2));
    assert!(message.contains("'pooled.instance' and 'pooled.prior'"), "{message}");
    with.push(Tensor::f32("pooled.instance", &[1, 2], &[0.5, 0.25]));
    assert!(fault(&with, Some(2)).contains("no tensor 'pooled.prior'"));
    with.push(Tensor::f32("pooled.prior", &[1, 2], &[1.0, 2.0]));
    let replay = open(&with).unwrap();
    assert!(replay.check_added(Some(2), 2).is_ok());
    assert!(fault(&with, Some(3)).contains("2 wide: the model takes 3"));
    assert_eq!(replay.draw(1).unwrap().time_ids, ids[2..].concat());
    let Conditioning::Context { pooled, .. } = replay.conditioning().unwrap() else { panic!("hidden states") };
    assert_eq!(pooled, [0.5, 0.25, 1.0, 2.0]);
    with.retain(|t| t.name != "1.prior.time_ids");
    assert!(fault(&with, Some(2)).contains("no tensor '1.prior.time_ids'"));
    let plain = [tensors(), vec![Tensor::f32("pooled.instance", &[1, 2], &[0.5, 0.25])]].concat();
    assert!(fault(&plain, None).contains("no tensor 'pooled.prior'"));
    let only: Vec<_> = plain.into_iter().filter(|t| t.name.contains("instance")).collect();
    assert!(fault(&only, None).contains("no pooled embedding"));
}

#[test]
fn faults_are_named() {
    assert!(fault(&[]).contains("'0.instance.latents'"));
    assert!(fault(&replaced("context.instance", None)).contains("'context.instance'"));
    assert!(fault(&replaced("0.instance.latents", None)).contains("'0.instance.latents'"));
    assert!(fault(&replaced("1.prior.noise", None)).contains("no tensor '1.prior.noise'"));
    assert!(fault(&replaced("context.prior", None)).contains("'context.prior'"));
    let wrong = Tensor::f32("1.prior.noise", &[1, 2, 2, 1], &[0.0; 4]);
    assert!(fault(&replaced("1.prior.noise", Some(wrong))).contains("expected [1, 2, 1, 2]"));
    let nan = Tensor::f32("1.prior.noise", &[1, 2, 1, 2], &[0.0, f32::NAN, 0.0, 0.0]);
    assert!(fault(&replaced("1.prior.noise", Some(nan))).contains("NaN"));
    let negative = Tensor::i64("1.prior.timesteps", &[1], &[-1]);
    assert!(fault(&replaced("1.prior.timesteps", Some(negative))).contains("holds -1"));
    let float = Tensor::f32("1.prior.timesteps", &[1], &[0.5]);
    assert!(fault(&replaced("1.prior.timesteps", Some(float))).contains("whole numbers"));
    let far = Tensor::f32("99999999999.instance.noise", &[1], &[0.0]);
    assert!(fault(&replaced("", Some(far))).contains("numbered from 0"));
    let narrow = Tensor::f32("context.prior", &[1, 2, 2], &[0.0; 4]);
    assert!(fault(&replaced("context.prior", Some(narrow))).contains("expected [1, 2, 3]"));
    let ids = Tensor::i64("ids.instance", &[1, 3], &[0; 3]);
    assert!(fault(&replaced("", Some(ids))).contains("either"));
}
