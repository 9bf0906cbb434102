//! Every op's kernel against its f64 reference, between sentinel words, with NaN in the padding of what it reads.

mod common;

use common::engine;
use portray::gpu::{AdapterClass, Caps, Gpu, Variants};
use portray::ops::{Case, Embedding, Given, cases, large_tiles};

fn run(gpu: &Gpu, caps: &Caps, variants: &Variants, case: &Case, seed: u64) -> Result<(), String> {
    pollster::block_on(case.run(gpu, caps, variants, seed)).unwrap_or_else(|e| Err(e.to_string()))
}

/// Runs the cases with kernels as `caps` has them.
fn run_all(gpu: &Gpu, caps: &Caps, variants: &Variants, ops: &[&str]) {
    let only = std::env::var("OP").ok();
    let mut wrong = Vec::new();
    for (op, cases) in cases() {
        if only.as_deref().is_some_and(|o| o != op) || !(ops.is_empty() || ops.contains(&op)) {
            continue;
        }
        for (i, case) in cases.iter().enumerate() {
            if let Err(e) = run(gpu, caps, variants, case, i as u64) {
                let shapes: Vec<String> = case.inputs.iter().map(|g| format!("{:?}", g)).collect();
                wrong.push(format!("{op} case {i} {:?} on {}: {e}", case.op, shapes.join(", ")));
            }
        }
    }
    assert!(wrong.is_empty(), "{} cases fail:\n{}", wrong.len(), wrong[..wrong.len().min(8)].join("\n"));
}

#[test]
fn kernels_match_their_references() {
    let gpu = engine().gpu();
    run_all(gpu, gpu.caps(), &Variants::default(), &[]);
}

/// The ops whose kernels differ between adapters.
const VARIED: &[&str] = &["attention", "conv2d", "gemm", "matmul", "weight_grad"];

/// A table larger than a binding is read in pieces.
#[test]
fn tables_larger_than_a_binding_match_their_references() {
    let gpu = engine().gpu();
    let caps = Caps { max_binding_bytes: 4096, ..gpu.caps().clone() };
    let ids = || Given::Ids([2, 40].into(), 700);
    for table in [Given::normal([700, 4]), Given::half([700, 4]), Given::normal([700, 3])] {
        let positions = Given::normal([40, table.shape().last()]);
        for inputs in [vec![table.clone(), ids()], vec![table.clone(), ids(), positions]] {
            run(gpu, &caps, &Variants::default(), &Case::new(Embedding, inputs), 1).unwrap();
        }
    }
}

#[test]
fn hardware_kernels_match_their_references() {
    let gpu = engine().gpu();
    let caps = Caps { class: AdapterClass::Gpu, ..gpu.caps().clone() };
    run_all(gpu, &caps, &Variants::default(), VARIED);
    for variants in large_tiles() {
        run_all(gpu, &caps, &variants, &["conv2d", "gemm", "matmul", "weight_grad"]);
    }
}

#[test]
fn kernels_without_subgroups_match_their_references() {
    let gpu = engine().gpu();
    run_all(gpu, &Caps { class: AdapterClass::Cpu, subgroup: 0, ..gpu.caps().clone() }, &Variants::default(), VARIED);
}
