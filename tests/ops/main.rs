//! Every op's kernel against its f64 reference, between sentinel words, with NaN in the padding of what it reads; once with
//! every access held against what is bound, once with wgpu's bounds checks.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that unwraps is a test that fails")]

#[path = "../common/mod.rs"]
mod common;
mod random_graphs;

use common::engine;
use portray::Result;
use portray::low_level::base::{Array, DType, Shape};
use portray::low_level::gpu::{AdapterClass, Caps, DeviceOptions, Gpu, Pool, Store, Template, Variants};
use portray::low_level::graph::{Graph, Launch, Op, Plan, PlanOptions, Replayed, Session, TensorInfo};
use portray::low_level::ops::{Attention, AttentionSpec, Case, Embedding, Given, cases, large_tiles};

fn run(gpu: &Gpu, caps: &Caps, variants: &Variants, case: &Case, seed: u64) -> Result<(), String> {
    pollster::block_on(case.run(gpu, caps, variants, seed)).unwrap_or_else(|e| Err(e.to_string()))
}

fn run_trapped(gpu: &Gpu, caps: &Caps, variants: &Variants, case: &Case, seed: u64) -> Result<(), String> {
    pollster::block_on(case.run_trapped(gpu, caps, variants, seed)).unwrap_or_else(|e| Err(e.to_string()))
}

/// Runs the cases of `ops`, or of all, with kernels as `caps` has them; with traps where `TRAPS` is set.
fn run_all(gpu: &Gpu, caps: &Caps, variants: &Variants, ops: &[&str]) {
    let run = if std::env::var_os("TRAPS").is_some() { run_trapped } else { run };
    run_each(ops, |case, seed| run(gpu, caps, variants, case, seed));
}

fn run_each(ops: &[&str], run: impl Fn(&Case, u64) -> Result<(), String>) {
    let only = std::env::var("OP").ok();
    let mut wrong = Vec::new();
    for (op, cases) in cases() {
        if only.as_deref().is_some_and(|o| o != op) || !(ops.is_empty() || ops.contains(&op)) {
            continue;
        }
        for (i, case) in cases.iter().enumerate() {
            if let Err(e) = run(case, i as u64) {
                let shapes: Vec<String> = case.inputs.iter().map(|g| format!("{:?}", g)).collect();
                wrong.push(format!("{op} case {i} {:?} on {}: {e}", case.op, shapes.join(", ")));
            }
        }
    }
    assert!(wrong.is_empty(), "{} cases fail:\n{}", wrong.len(), wrong[..wrong.len().min(8)].join("\n"));
}

/// On SwiftShader with wgpu's bounds checks, which jobs do without; elsewhere with traps, which no kernel may spring.
#[test]
fn kernels_match_their_references() {
    let gpu = engine().gpu();
    if gpu.info().name.contains("SwiftShader") {
        let options = DeviceOptions { bounds_checks: true, ..Default::default() };
        let checked = pollster::block_on(Gpu::request(&options)).unwrap();
        return run_all(&checked, checked.caps(), &Variants::default(), &[]);
    }
    run_each(&[], |case, seed| run_trapped(gpu, gpu.caps(), &Variants::default(), case, seed));
}

/// Doubles the ten elements of its operand in a kernel of this text.
#[derive(Clone, Debug)]
struct Double(&'static str);

impl Double {
    /// A case of the op, whose threads do `more` besides; `i` counts ten of them.
    fn case(more: &str) -> Case {
        let main = "@compute @workgroup_size(64)\nfn main(@builtin(local_invocation_index) i: u32)";
        let text =
            format!("{main} {{\n    if i >= p.count {{ return; }}\n    out_put(i, 2.0 * x_at(i));\n    {more}\n}}\n");
        Case::new(Double(text.leak()), [Given::normal([10])])
    }
}

impl Op for Double {
    fn name(&self) -> &'static str {
        "double"
    }

    fn infer(&self, inputs: &[&TensorInfo]) -> Result<Vec<(Shape, DType)>> {
        Ok(vec![(inputs[0].shape.clone(), DType::F32)])
    }

    fn launch(&self, l: &mut Launch) -> Result<()> {
        let (x, out, count) = (l.input_slot(0), l.output_slot(0), l.input(0).shape.elements());
        l.kernel(Template::new("double", self.0)).read("x", x).write("out", out).u32("count", count).grid([1, 1, 1])
    }

    fn reference(&self, inputs: &[&Array]) -> Vec<Array> {
        if self.0.contains("nothing") { Vec::new() } else { vec![inputs[0].map(|x| 2.0 * x)] }
    }
}

/// A check names the first node whose kernel is not as its reference, behind right ones and before what reads it, with the
/// parameter on the way; also where a right one overwrote its operand.
#[test]
fn a_check_names_the_first_wrong_node() {
    let gpu = engine().gpu();
    let text = |factor: &str| -> &'static str {
        let main = "@compute @workgroup_size(64)\nfn main(@builtin(local_invocation_index) i: u32)";
        format!("{main} {{ if i < p.count {{ out_put(i, {factor} * x_at(i)); }} }}\n").leak()
    };
    let replay = |factor: &str| {
        let (mut g, mut store) = (Graph::new(), Store::new(gpu));
        let x = g.input("x", [2, 5], DType::F32);
        let w = g.stored("unet.conv_in.bias", [2, 5], DType::F32)?;
        let sum = g.push1(random_graphs::Count, &[x, w])?;
        let doubled = g.push1(Double(text("2.0")), &[sum])?;
        let planted = g.push1(Double(text(factor)), &[doubled])?;
        let last = g.push1(Double(text("2.5")), &[planted])?;
        g.output(last);
        store.allocate("w", &[("unet.conv_in.bias".into(), g.info(w).bytes())])?;
        store.write("unet.conv_in.bias", bytemuck::cast_slice(&[0.5f32; 12]))?;
        let plan = Plan::new(&g, gpu.caps(), &Variants::default(), &PlanOptions::default())?;
        pollster::block_on(async {
            let session = Session::new(gpu, plan, &mut Pool::default(), &store).await?;
            session.write(x, &[1.0, -2.0, 3.0, 0.25, 0.0, 1.5, 2.5, -0.5, 4.0, 1.0])?;
            session.check(1e-4).await
        })
    };
    let found: Result<Vec<Replayed>> =
        ["2.0", "2.001", "bitcast<f32>(0x7fc00000u + i)"].map(replay).into_iter().collect();
    let found = found.unwrap();
    let wrong = |i: usize| found[i].wrong.as_ref().unwrap();
    assert_eq!([wrong(0).node, wrong(1).node, wrong(2).node], [3, 2, 2]);
    assert_eq!(found.iter().map(|f| f.nodes).collect::<Vec<_>>(), [4, 3, 3]);
    assert!((wrong(1).error - 5e-4).abs() < 1e-6 && wrong(2).error == f64::INFINITY, "{found:?}");
    assert_eq!(wrong(1).to_string(), "node 2, double [2, 5] -> [2, 5], after unet.conv_in.bias: off by 5.0e-4");
    assert!(found[1].worst.as_ref().is_some_and(|worst| worst.error < 1e-6));
}

/// Queries, keys and values that lie side by side in one tensor, as a self-attention's do: in layers of which a driver that
/// compiles slowly copies the queries out and in those that it leaves, and in rows that hold something besides.
#[test]
fn attention_within_one_tensor_matches_its_reference() {
    let gpu = engine().gpu();
    for (tokens, heads, head_dim, besides) in
        [(65, 4, 64, 0), (33, 2, 8, 0), (9, 3, 5, 0), (65, 4, 64, 8), (28, 5, 80, 0)]
    {
        let columns = heads * head_dim;
        let spec = AttentionSpec { heads, head_dim, scale: 1.0 / (head_dim as f64).sqrt(), causal: false };
        let mut g = Graph::new();
        let x = g.input("x", [2, tokens, 3 * columns + besides], DType::F32);
        let results = g.push(Attention { spec, offsets: [0, columns, 2 * columns] }, &[x, x, x]).unwrap();
        g.output(results[0]);
        let plan = Plan::new(&g, gpu.caps(), &Variants::default(), &PlanOptions::default()).unwrap();
        let values: Vec<f32> =
            (0..g.info(x).shape.elements()).map(|i| ((i * 7919 % 1009) as f32 / 504.0 - 1.0).sin()).collect();
        let found = pollster::block_on(async {
            let session = Session::new(gpu, plan, &mut Pool::default(), &Store::new(gpu)).await?;
            session.write(x, &values)?;
            session.check(1e-5).await
        });
        let wrong = found.unwrap().wrong;
        assert!(wrong.is_none(), "{tokens} tokens, {heads} heads of {head_dim}: {wrong:?}");
    }
}

/// Guards and traps see what a kernel does outside of its operands, which are padded to twelve elements.
#[test]
fn what_a_kernel_touches_besides_is_seen() {
    let gpu = engine().gpu();
    let guarded = |more: &str| run(gpu, gpu.caps(), &Variants::default(), &Double::case(more), 1);
    let trapped = |more: &str| run_trapped(gpu, gpu.caps(), &Variants::default(), &Double::case(more), 1);
    assert_eq!((guarded(""), trapped("")), (Ok(()), Ok(())));
    for (more, seen) in [
        ("out_put(i, out_at(i) + x_at(i + 12u));", "element 0 is NaN"),
        ("out_put(i + 12u, 1.0);", "wrote behind double [10]"),
        ("out_put(10u + (i & 1u), 1.0);", ""),
    ] {
        let found = guarded(more);
        assert!(
            if seen.is_empty() { found.is_ok() } else { found.as_ref().is_err_and(|e| e.contains(seen)) },
            "{found:?}"
        );
    }
    // Before as well as behind, however far, and where nothing comes of it.
    let reads = ["i + 12u", "i - 10u", "i + 1000000u"]
        .map(|at| (format!("if x_at({at}) == 3e30 {{ out_put(i, 0.0); }}"), "operand0"));
    let writes = ["i + 12u", "i - 10u"].map(|at| (format!("out_put({at}, 1.0);"), "double"));
    for (more, memory) in reads.into_iter().chain(writes) {
        let found = trapped(&more);
        assert!(
            found.as_ref().is_err_and(|e| e.contains(&format!("double reads or writes outside of {memory}"))),
            "{found:?}"
        );
    }
    let found = guarded("// A reference of nothing.");
    assert!(found.as_ref().is_err_and(|e| e.contains("gives 0 results")), "{found:?}");
}

/// The ops whose kernels differ between adapters.
const VARIED: &[&str] = &["attention", "conv2d", "gemm", "group_norm", "group_norm_moments", "matmul", "weight_grad"];

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
