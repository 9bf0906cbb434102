//! Every op's kernel against its f64 reference, between sentinel words, with NaN in the padding of what it reads.

mod common;

use common::{Random, close, gpu, stored_bytes};
use portray::gpu::{AdapterClass, Caps, Gpu, Pool, Store, Variants};
use portray::graph::{Graph, Plan, PlanOptions, Session};
use portray::ops::{Case, Embedding, Given, cases, large_tiles};

/// Runs one case on the GPU and compares every result.
fn run(gpu: &Gpu, caps: &Caps, variants: &Variants, case: &Case, seed: u64) -> Result<(), String> {
    let mut random = Random::new(seed);
    let operands: Vec<_> = case.inputs.iter().map(|given| random.operand(given)).collect();
    let mut g = Graph::new();
    let mut store = Store::new(gpu);
    let mut inputs = Vec::new();
    for (i, given) in case.inputs.iter().enumerate() {
        let t = g.stored(&format!("operand{i}"), given.shape().clone(), given.dtype()).map_err(|e| e.to_string())?;
        inputs.push(t);
    }
    for (i, (given, operand)) in case.inputs.iter().zip(&operands).enumerate() {
        let mut bytes = stored_bytes(operand, given.dtype());
        // NaN in the padding to whole vectors: a kernel that lets it through fails.
        while bytes.len() < given.dtype().bytes(given.shape().elements()) as usize {
            bytes.push(0xff);
        }
        let name = format!("operand{i}");
        store.allocate(&name, &[(name.clone(), bytes.len() as u64)]).map_err(|e| e.to_string())?;
        store.write(&name, &bytes).map_err(|e| e.to_string())?;
    }
    let outputs = g.push_dyn(case.op.clone(), &inputs).map_err(|e| e.to_string())?;
    outputs.iter().for_each(|&t| g.output(t));
    let plan = Plan::new(&g, caps, variants, &PlanOptions { sentinels: true, ..Default::default() })
        .map_err(|e| e.to_string())?;
    let mut pool = Pool::default();
    pollster::block_on(async {
        let session = Session::new(gpu, plan, &mut pool, &store).await?;
        session.plant_sentinels()?;
        session.run().await?;
        let expected = case.op.reference(&operands.iter().collect::<Vec<_>>());
        for (i, (t, expected)) in outputs.iter().zip(&expected).take(case.compared).enumerate() {
            let got = session.read(*t).await?;
            if let Err(e) = close(&got, &expected.data, case.tolerance) {
                return Ok(Err(format!("result {i} {}: {e}", expected.shape)));
            }
        }
        session.check_sentinels().await?;
        Ok(Ok(()))
    })
    .map_err(|e: portray::Error| e.to_string())?
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
    let gpu = gpu();
    run_all(&gpu, gpu.caps(), &Variants::default(), &[]);
}

/// The ops whose kernels differ between adapters.
const VARIED: &[&str] = &["attention", "conv2d", "gemm", "matmul", "weight_grad"];

/// A table larger than a binding is read in pieces.
#[test]
fn tables_larger_than_a_binding_match_their_references() {
    let gpu = gpu();
    let caps = Caps { max_binding_bytes: 4096, ..gpu.caps().clone() };
    let ids = || Given::Ids([2, 40].into(), 700);
    for table in [Given::normal([700, 4]), Given::half([700, 4]), Given::normal([700, 3])] {
        let positions = Given::normal([40, table.shape().last()]);
        for inputs in [vec![table.clone(), ids()], vec![table.clone(), ids(), positions]] {
            run(&gpu, &caps, &Variants::default(), &Case::new(Embedding, inputs), 1).unwrap();
        }
    }
}

#[test]
fn hardware_kernels_match_their_references() {
    let gpu = gpu();
    let caps = Caps { class: AdapterClass::Gpu, ..gpu.caps().clone() };
    run_all(&gpu, &caps, &Variants::default(), VARIED);
    for variants in large_tiles() {
        run_all(&gpu, &caps, &variants, &["conv2d", "gemm", "matmul", "weight_grad"]);
    }
}

#[test]
fn kernels_without_subgroups_match_their_references() {
    let gpu = gpu();
    run_all(&gpu, &Caps { class: AdapterClass::Cpu, subgroup: 0, ..gpu.caps().clone() }, &Variants::default(), VARIED);
}
