//! Every op's gradient rule, evaluated with the f64 references, against finite differences of its f64 reference.

use std::collections::HashMap;

use portray::base::Array;
use portray::graph::{Graph, Tensor, eval, grad};
use portray::ops::oracle::Random;
use portray::ops::{Case, add, cases, dot, fill};

/// The sum of all results times fixed random factors: a scalar that depends on every element.
fn loss(case: &Case, operands: &[Array], factors: &[Array]) -> f64 {
    let results = case.op.reference(&operands.iter().collect::<Vec<_>>());
    results.iter().zip(factors).flat_map(|(r, f)| r.data.iter().zip(&f.data)).map(|(r, f)| r * f).sum()
}

fn check(case: &Case, seed: u64) -> Result<(), String> {
    let mut random = Random::new(seed + 1000);
    let operands: Vec<Array> = case.inputs.iter().map(|given| random.operand(given)).collect();
    let mut g = Graph::new();
    let mut inputs = Vec::new();
    for (i, given) in case.inputs.iter().enumerate() {
        inputs.push(g.stored(&format!("operand{i}"), given.shape().clone(), given.dtype()).map_err(|e| e.to_string())?);
    }
    let text = |e: portray::Error| e.to_string();
    let outputs = g.push_dyn(case.op.clone(), &inputs).map_err(text)?;
    let factors: Vec<Array> = case
        .op
        .reference(&operands.iter().collect::<Vec<_>>())
        .iter()
        .take(case.primary)
        .map(|r| r.map(|_| 0.0))
        .map(|mut f| {
            f.data.iter_mut().for_each(|x| *x = random.normal());
            f
        })
        .collect();
    let mut given: HashMap<Tensor, Array> = inputs.iter().copied().zip(operands.iter().cloned()).collect();
    let mut total: Option<Tensor> = None;
    for (i, (&o, f)) in outputs.iter().zip(&factors).enumerate() {
        let factor = g.stored(&format!("factor{i}"), f.shape.clone(), portray::base::DType::F32).map_err(text)?;
        given.insert(factor, f.clone());
        let part = dot(&mut g, o, factor).map_err(text)?;
        total = Some(match total {
            Some(t) => add(&mut g, t, part).map_err(text)?,
            None => part,
        });
    }
    let total = total.ok_or("no result")?;
    let wrt: Vec<Tensor> = case.differentiate.iter().map(|&i| inputs[i]).collect();
    let seed_tensor = fill(&mut g, [1], 1.0).map_err(text)?;
    let mut grads = Vec::new();
    let mut each = |_: &mut Graph, i: usize, gradient| {
        grads.push((i, gradient));
        Ok(())
    };
    grad(&mut g, total, seed_tensor, &wrt, false, add, &mut each).map_err(text)?;
    grads.sort();
    let grads = grads.into_iter().map(|(_, gradient)| gradient);
    let values = eval(&g, given).map_err(text)?;
    for (&operand, gradient) in case.differentiate.iter().zip(grads) {
        let analytic = &values[&gradient];
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
                return Err(format!(
                    "operand {operand} element {i}: rule gives {}, finite difference {numeric}",
                    analytic.data[i]
                ));
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
