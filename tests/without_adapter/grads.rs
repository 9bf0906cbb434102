//! Every op's gradient rule, evaluated with the f64 references, against finite differences of its f64 reference.

use std::collections::HashMap;

use portray::low_level::base::{Array, DType};
use portray::low_level::graph::{Gradients, Graph, Tensor, eval, grad};
use portray::low_level::ops::oracle::Random;
use portray::low_level::ops::{Case, Epilogue, add, cases, dot, fill, linear};

/// The sum of all results times fixed random factors: a scalar that depends on every element.
fn loss(case: &Case, operands: &[Array], factors: &[Array]) -> f64 {
    let results = case.op.reference(&operands.iter().collect::<Vec<_>>());
    results.iter().zip(factors).flat_map(|(r, f)| r.data.iter().zip(&f.data)).map(|(r, f)| r * f).sum()
}

/// Random factors for the results that the loss reads.
fn factors(case: &Case, operands: &[Array], random: &mut Random) -> Vec<Array> {
    let results = case.op.reference(&operands.iter().collect::<Vec<_>>());
    let random_like = |result: &Array| {
        let mut factor = result.map(|_| 0.0);
        factor.data.iter_mut().for_each(|x| *x = random.normal());
        factor
    };
    results.iter().take(case.primary).map(random_like).collect()
}

/// The gradients of the loss by the operands in [`Case::differentiate`], as the op's rule gives them.
fn by_rule(case: &Case, operands: &[Array], factors: &[Array]) -> portray::Result<Vec<Array>> {
    let mut g = Graph::new();
    let mut inputs = Vec::new();
    for (i, given) in case.inputs.iter().enumerate() {
        inputs.push(g.stored(&format!("operand{i}"), given.shape().clone(), given.dtype())?);
    }
    let outputs = g.push_dyn(case.op.clone(), &inputs)?;
    let mut given: HashMap<Tensor, Array> = inputs.iter().copied().zip(operands.iter().cloned()).collect();
    let mut total: Option<Tensor> = None;
    for (i, (&o, f)) in outputs.iter().zip(factors).enumerate() {
        let factor = g.stored(&format!("factor{i}"), f.shape.clone(), DType::F32)?;
        given.insert(factor, f.clone());
        let part = dot(&mut g, o, factor)?;
        total = Some(match total {
            Some(t) => add(&mut g, t, part)?,
            None => part,
        });
    }
    let loss = total.expect("an op has results");
    let wrt: Vec<Tensor> = case.differentiate.iter().map(|&i| inputs[i]).collect();
    let seed = fill(&mut g, [1], 1.0)?;
    let mut grads = Vec::new();
    let mut each = |_: &mut Graph, i: usize, gradient| {
        grads.push((i, gradient));
        Ok(())
    };
    grad(&mut g, &Gradients { loss, wrt: &wrt, checkpoint: false, seed, sum: add }, &mut each)?;
    grads.sort();
    let values = eval(&g, given)?;
    Ok(grads.into_iter().map(|(_, gradient)| values[&gradient].clone()).collect())
}

fn check(case: &Case, seed: u64) -> Result<(), String> {
    let mut random = Random::new(seed + 1000);
    let operands: Vec<Array> = case.inputs.iter().map(|given| random.operand(given)).collect();
    let factors = factors(case, &operands, &mut random);
    let found = by_rule(case, &operands, &factors).map_err(|e| e.to_string())?;
    for (&operand, analytic) in case.differentiate.iter().zip(found) {
        let n = operands[operand].data.len();
        // Every element of small operands, a sample of large ones.
        let picks: Vec<usize> =
            if n <= 64 { (0..n).collect() } else { (0..48).map(|_| (random.bits() % n as u64) as usize).collect() };
        let largest = analytic.data.iter().fold(1e-3f64, |m, x| m.max(x.abs()));
        for i in picks {
            let mut moved = operands.to_vec();
            let h = 1e-5;
            moved[operand].data[i] += h;
            let up = loss(case, &moved, &factors);
            moved[operand].data[i] -= 2.0 * h;
            let down = loss(case, &moved, &factors);
            let numeric = (up - down) / (2.0 * h);
            let error = (analytic.data[i] - numeric).abs();
            if error.is_nan() || error > 1e-5 * largest {
                let rule = analytic.data[i];
                return Err(format!("operand {operand} element {i}: rule gives {rule}, finite difference {numeric}"));
            }
        }
    }
    Ok(())
}

#[test]
fn rules_match_finite_differences() {
    let only = std::env::var("OP").ok();
    let (mut wrong, mut checked) = (Vec::new(), 0);
    for (op, cases) in cases() {
        if only.as_deref().is_some_and(|o| o != op) {
            continue;
        }
        for (i, case) in cases.iter().enumerate().filter(|(_, c)| !c.differentiate.is_empty()) {
            checked += 1;
            if let Err(e) = check(case, i as u64) {
                let shapes: Vec<String> = case.inputs.iter().map(|g| g.shape().to_string()).collect();
                wrong.push(format!("{op} case {i} {:?} on {}: {e}", case.op, shapes.join(", ")));
            }
        }
    }
    assert!(checked > 0);
    assert!(wrong.is_empty(), "{} cases fail:\n{}", wrong.len(), wrong[..wrong.len().min(8)].join("\n"));
}

/// Gradient of the sum of what `record` makes of `x` `[3, 4]` and two weights, times fixed factors, against finite
/// differences; and how many additions of gradients are dispatches.
fn additions(record: impl Fn(&mut Graph, Tensor, [Tensor; 2]) -> portray::Result<Tensor>) -> portray::Result<usize> {
    let mut g = Graph::new();
    let (x, factor) = (g.stored("x", [3, 4], DType::F32)?, g.stored("factor", [3, 4], DType::F32)?);
    let weights = [g.stored("v", [4, 4], DType::F32)?, g.stored("w", [4, 4], DType::F32)?];
    let out = record(&mut g, x, weights)?;
    let (loss, seed) = (dot(&mut g, out, factor)?, fill(&mut g, [1], 1.0)?);
    let (forward, mut gradient) = (g.nodes().len(), x);
    let wanted = Gradients { loss, wrt: &[x], checkpoint: false, seed, sum: add };
    grad(&mut g, &wanted, &mut |_, _, found| {
        gradient = found;
        Ok(())
    })?;
    let mut random = Random::new(7);
    let mut values = HashMap::new();
    for tensor in [x, factor, weights[0], weights[1]] {
        let mut value = Array::zeros(g.shape(tensor).clone());
        value.data.iter_mut().for_each(|v| *v = random.normal());
        values.insert(tensor, value);
    }
    let found = eval(&g, values.clone())?[&gradient].clone();
    for i in 0..12 {
        let at = |step: f64| -> portray::Result<f64> {
            let mut moved = values.clone();
            moved.entry(x).and_modify(|x| x.data[i] += step);
            Ok(eval(&g, moved)?[&loss].data[0])
        };
        let numeric = (at(1e-5)? - at(-1e-5)?) / 2e-5;
        assert!((found.data[i] - numeric).abs() < 1e-7, "element {i}: {} and {numeric}", found.data[i]);
    }
    Ok(g.nodes()[forward..].iter().filter(|node| node.op.name() == "weighted_sum").count())
}

#[test]
fn products_add_what_was_there_before_them() {
    let product = |g: &mut Graph, x: Tensor, w: Tensor| linear(g, x, w, Epilogue::default());
    let beside = additions(|g, x, [v, w]| {
        let (a, b) = (product(g, x, v)?, product(g, x, w)?);
        add(g, a, b)
    });
    assert_eq!(beside.unwrap(), 0);
    // The gradient behind the residual is that of two tensors: nothing is added to it, but it is added.
    let residual = additions(|g, x, [v, w]| {
        let inner = product(g, x, v)?;
        let sum = add(g, inner, x)?;
        let outer = product(g, sum, w)?;
        add(g, outer, x)
    });
    assert_eq!(residual.unwrap(), 1);
    // A product binds no memory twice, once to multiply and once to add.
    let itself = additions(|g, x, [v, w]| {
        let (a, b) = (product(g, x, v)?, product(g, x, v)?);
        let sum = add(g, a, b)?;
        let c = product(g, sum, w)?;
        add(g, c, sum)
    });
    assert_eq!(itself.unwrap(), 1);
}
