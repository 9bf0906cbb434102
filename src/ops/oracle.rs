//! Shared parts of op tests, natively and in a browser: random operands, a comparator, and one case on a GPU.

use crate::base::{Array, DType, block4, block8};
use crate::error::Result;
use crate::gpu::{Caps, Gpu, Pool, Store, Variants};
use crate::graph::{GUARD_BYTES, Graph, Plan, PlanOptions, Session, Tensor, reference};

use super::{Case, Given};

/// Small deterministic generator for operands.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Creates a generator; the same seed gives the same values.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x1234_5678)
    }

    /// Draws 64 random bits (splitmix64).
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Draws a uniform value in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Draws a standard normal value.
    pub fn normal(&mut self) -> f64 {
        let (u, v) = (self.uniform().max(1e-300), self.uniform());
        (-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()
    }

    /// Draws a block of four-bit values: random scale, minimum and codes, the first and last code among them.
    fn four_bits(&mut self) -> [f32; block4::VALUES] {
        let mut half = |low: f64| half::bf16::from_f64(low + 0.2 * self.uniform()).to_f32();
        let (scale, minimum) = (half(0.1), half(-1.8));
        let first = self.bits() as usize % block4::VALUES;
        let last = (first + 1 + self.bits() as usize % (block4::VALUES - 1)) % block4::VALUES;
        std::array::from_fn(|i| {
            let code = match i {
                i if i == first => 0,
                i if i == last => 15,
                _ => self.bits() % 16,
            };
            minimum + scale * code as f32
        })
    }

    /// Draws values for an operand, rounded to its storage type so that reference and kernel see the same.
    pub fn operand(&mut self, given: &Given) -> Array {
        let n = given.shape().elements();
        if let Given::Block8(shape, s) = given {
            let values: Vec<f32> = (0..n).map(|_| (self.normal() * s) as f32).collect();
            let mut bytes = Vec::new();
            block8::quantize(&values, &mut bytes);
            return Array::from_f32(shape.clone(), &block8::dequantize(&bytes));
        }
        if let Given::Block4(shape) = given {
            let values = (0..n / block4::VALUES).flat_map(|_| self.four_bits());
            return Array::from_f32(shape.clone(), &values.collect::<Vec<_>>());
        }
        if let Given::Moments(shape) = given {
            let scale = |random: &mut Random| f64::from((0.5 + 1.5 * random.uniform()) as f32);
            let word = |i: usize| match i % 17 {
                0 => f64::from((scale(self) as f32).to_bits()),
                _ => f64::from(self.bits() as u32),
            };
            return Array::new(shape.clone(), (0..n).map(word).collect());
        }
        let data = (0..n)
            .map(|_| match given {
                Given::Moments(_) | Given::Block4(_) => 0.0,
                Given::Normal(_, s) | Given::Block8(_, s) => f64::from((self.normal() * s) as f32),
                Given::Half(_, s) => half::f16::from_f64(self.normal() * s).to_f64(),
                Given::Uniform(_, low, high) => f64::from((low + self.uniform() * (high - low)) as f32),
                Given::Ids(_, bound) => (self.bits() % u64::from((*bound).max(1))) as f64,
            })
            .collect();
        Array::new(given.shape().clone(), data)
    }
}

/// Bytes of `array` as `dtype` is stored, padding left to the caller.
pub fn stored_bytes(array: &Array, dtype: DType) -> Vec<u8> {
    match dtype {
        DType::F32 => array.data.iter().flat_map(|&x| (x as f32).to_le_bytes()).collect(),
        DType::F16 => array.data.iter().flat_map(|&x| half::f16::from_f64(x).to_le_bytes()).collect(),
        DType::Q8 => {
            let mut bytes = Vec::new();
            block8::quantize(&array.to_f32(), &mut bytes);
            bytes
        }
        DType::Q4 => {
            let mut bytes = Vec::new();
            block4::quantize(&array.to_f32(), &mut bytes);
            bytes
        }
        DType::U32 => array.data.iter().flat_map(|&x| (x as u32).to_le_bytes()).collect(),
    }
}

/// Compares `got` with `expected`.
///
/// # Errors
/// The place and size of the worst difference, if `got` is off by more than `tolerance` x max|expected| or is not
/// finite.
pub fn close(got: &[f32], expected: &[f64], tolerance: f64) -> Result<(), String> {
    if got.len() != expected.len() {
        return Err(format!("{} values, expected {}", got.len(), expected.len()));
    }
    let largest = expected.iter().fold(0.0f64, |m, x| m.max(x.abs())).max(1e-6);
    let mut worst = (0.0, 0);
    for (i, (&g, &e)) in got.iter().zip(expected).enumerate() {
        if !g.is_finite() {
            return Err(format!("element {i} is {g}, expected {e}"));
        }
        let d = (f64::from(g) - e).abs();
        if d > worst.0 {
            worst = (d, i);
        }
    }
    if worst.0 > tolerance * largest {
        let (d, i) = worst;
        return Err(format!(
            "element {i}: {} instead of {} (off by {:.2e} of the largest, {tolerance:.0e} allowed)",
            got[i],
            expected[i],
            d / largest
        ));
    }
    Ok(())
}

impl Case {
    /// Runs the case on `gpu`, with kernels as `caps` and `variants` have them, and compares its results with the reference.
    /// Before and behind operands, results and scratch memory are sentinel words, and NaN is in the padding of what is read:
    /// a write there is found, and so is a read whose value reaches a result.
    ///
    /// # Errors
    /// The inner one says which result differs and by how much, or what was overwritten; the outer one why the case cannot
    /// be planned or run.
    pub async fn run(&self, gpu: &Gpu, caps: &Caps, variants: &Variants, seed: u64) -> Result<Result<(), String>> {
        let options = PlanOptions { sentinels: true, ..Default::default() };
        Prepared::new(self, gpu, seed)?.run(caps, variants, &options).await
    }

    /// As [`Case::run`], with kernels that note each access outside of what they bind, however far and whatever becomes
    /// of the value. Their texts are others than those that jobs run, and take drivers longer to compile.
    ///
    /// # Errors
    /// As those of [`Case::run`]; the inner one also names the kernel and the memory that it left.
    pub async fn run_trapped(
        &self,
        gpu: &Gpu,
        caps: &Caps,
        variants: &Variants,
        seed: u64,
    ) -> Result<Result<(), String>> {
        let options = PlanOptions { sentinels: true, traps: true };
        Prepared::new(self, gpu, seed)?.run(caps, variants, &options).await
    }
}

/// A case's graph, and its operands between guards in a store.
struct Prepared<'a> {
    case: &'a Case,
    gpu: &'a Gpu,
    graph: Graph,
    store: Store,
    operands: Vec<Array>,
    outputs: Vec<Tensor>,
}

impl<'a> Prepared<'a> {
    fn new(case: &'a Case, gpu: &'a Gpu, seed: u64) -> Result<Prepared<'a>> {
        let mut random = Random::new(seed);
        let operands: Vec<_> = case.inputs.iter().map(|given| random.operand(given)).collect();
        let (mut graph, mut store) = (Graph::new(), Store::new(gpu));
        let mut inputs = Vec::new();
        for (i, (given, operand)) in case.inputs.iter().zip(&operands).enumerate() {
            let name = format!("operand{i}");
            inputs.push(graph.stored(&name, given.shape().clone(), given.dtype())?);
            let mut bytes = stored_bytes(operand, given.dtype());
            // NaN in the padding to whole vectors: a kernel that lets it through fails.
            bytes.resize(bytes.len().max(given.dtype().bytes(given.shape().elements()) as usize), 0xff);
            let room = bytes.len() as u64 + GUARD_BYTES;
            store.allocate(&name, &[(format!("before {name}"), GUARD_BYTES), (name.clone(), room)])?;
            store.write(&name, &bytes)?;
        }
        let outputs = graph.push_dyn(case.op.clone(), &inputs)?;
        outputs.iter().for_each(|&t| graph.output(t));
        Ok(Prepared { case, gpu, graph, store, operands, outputs })
    }

    async fn run(&self, caps: &Caps, variants: &Variants, options: &PlanOptions) -> Result<Result<(), String>> {
        let plan = Plan::new(&self.graph, caps, variants, options)?;
        let session = Session::new(self.gpu, plan, &mut Pool::default(), &self.store).await?;
        session.plant_sentinels()?;
        session.run().await?;
        for outside in [session.check_traps().await, session.check_sentinels().await] {
            if let Err(e) = outside {
                return Ok(Err(e.to_string()));
            }
        }
        let infos: Vec<_> = self.outputs.iter().map(|&t| self.graph.info(t)).collect();
        let expected = reference(&*self.case.op, &self.operands.iter().collect::<Vec<_>>(), &infos)?;
        for (i, (t, expected)) in self.outputs.iter().zip(&expected).take(self.case.compared).enumerate() {
            let got = session.read(*t).await?;
            if let Err(e) = close(&got, &expected.data, self.case.tolerance) {
                return Ok(Err(format!("result {i} {}: {e}", expected.shape)));
            }
        }
        Ok(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::close;

    #[test]
    fn the_comparator_rejects_what_is_wrong() {
        let expected = [1.0, -2.0, 0.5];
        assert!(close(&[1.0, -2.0, 0.5], &expected, 1e-5).is_ok());
        assert!(close(&[1.0, -2.0, 0.501], &expected, 1e-5).is_err());
        assert!(close(&[1.0, f32::NAN, 0.5], &expected, 1e-5).is_err());
        assert!(close(&[1.0, -2.0], &expected, 1e-5).is_err());
    }
}
