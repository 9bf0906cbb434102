//! Gradients of whole models, in the f64 references, against directional differences; and gradient checkpointing against
//! plain recording.

use std::collections::HashMap;

use portray::low_level::base::{Array, DType};
use portray::low_level::graph::{Graph, Tensor, eval};
use portray::low_level::models::Context;
use portray::low_level::nn::{Mode, Param, Role, Targets};
use portray::low_level::ops::{dot, grad};

use super::harness::{Golden, Loras, settings};
use portray::low_level::ops::oracle::Random;

struct Recorded {
    g: Graph,
    loss: Tensor,
    /// Trainable tensors and their gradients.
    wrt: Vec<(Tensor, Tensor)>,
    given: HashMap<Tensor, Array>,
}

/// A training step's forward and backward at a small odd size.
fn record(golden: &Golden, lora: bool, checkpoint: bool) -> Recorded {
    let adapters = lora.then_some((2, 1.0, Targets::All));
    let (scope, model) = golden.unet_model(settings(DType::F32, Mode::Training, adapters));
    let loras = Loras { beside: if lora { golden.factors("-all") } else { Default::default() }, ..Loras::default() };
    let mut g = Graph::new();
    let (mut inputs, mut random) = (HashMap::new(), Random::new(5));
    let mut input = |g: &mut Graph, name: &str, shape: &[usize]| {
        let t = g.input(name, shape, DType::F32);
        let values = (0..shape.iter().product()).map(|_| random.normal()).collect();
        inputs.insert(t, Array::new(shape, values));
        t
    };
    let sample = input(&mut g, "sample", &[1, 6, 5, 4]);
    let time = input(&mut g, "timestep", &[1]);
    let hidden = input(&mut g, "context", &[1, 9, model.config.cross_attention_dim.get(0)]);
    let factor = input(&mut g, "factor", &[1, 6, 5, 4]);
    inputs.insert(time, Array::new([1], vec![500.0]));
    let out = model.forward(&mut g, sample, time, Context::Hidden(hidden)).unwrap();
    let loss = dot(&mut g, out, factor).unwrap();
    let params = scope.params();
    let trainable: Vec<Param> = params.iter().filter(|p| (p.role == Role::Adapter) == lora).cloned().collect();
    let wrt: Vec<Tensor> = trainable.iter().map(|p| p.get(&mut g).unwrap()).collect();
    let grads = grad(&mut g, loss, &wrt, checkpoint).unwrap();
    let mut given = golden.stored_values(&g, &params, &loras, &|_, _, _| Ok(()));
    given.extend(inputs);
    Recorded { g, loss, wrt: wrt.into_iter().zip(grads).collect(), given }
}

/// The slope of the loss along a random direction over all trainable tensors, from the gradients and from differences.
fn check(kind: &'static str, lora: bool) {
    let golden = Golden::open(kind);
    let Recorded { g, loss, wrt, given } = record(&golden, lora, false);
    let values = eval(&g, given.clone()).unwrap();
    let mut random = Random::new(6);
    let (mut up, mut down) = (given.clone(), given);
    let (mut slope, h) = (0.0, 1e-5);
    for (t, gradient) in &wrt {
        let gradient = &values[gradient];
        assert!(gradient.data.iter().any(|&x| x != 0.0), "{} has no gradient", g.info(*t).name);
        for i in 0..gradient.data.len() {
            let direction = random.normal();
            slope += direction * gradient.data[i];
            up.get_mut(t).unwrap().data[i] += h * direction;
            down.get_mut(t).unwrap().data[i] -= h * direction;
        }
    }
    let at = |given| eval(&g, given).unwrap()[&loss].data[0];
    let measured = (at(up) - at(down)) / (2.0 * h);
    println!("{kind}, {} tensors: slope {slope}, measured {measured}", wrt.len());
    assert!((slope - measured).abs() <= 1e-5 * measured.abs(), "{kind}: slope {slope}, measured {measured}");
    let again = record(&golden, lora, true);
    assert!(again.g.nodes().len() > g.nodes().len(), "nothing was recorded again");
    let recomputed = eval(&again.g, again.given.clone()).unwrap();
    for ((_, plain), (_, checkpointed)) in wrt.iter().zip(&again.wrt) {
        assert_eq!(values[plain], recomputed[checkpointed]);
    }
}

#[test]
fn lora_gradients_are_the_slope() {
    check("sd2", true);
    check("sd15", true);
}

#[test]
fn weight_gradients_are_the_slope() {
    check("sd2", false);
    check("sd15", false);
}
