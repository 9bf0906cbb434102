//! The tensors of one layer, put together and checked against each other.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::change::{Change, Matrix, WeightChange};
use super::layout::Role;
use super::{Factor, LoraModule, ModuleKey};
use crate::error::{Error, Result};
use crate::io::Tensor;

const DAMAGED: &str = "the file is damaged, get it again";

/// Stable Diffusion's convolutions have windows of 1x1 and 3x3; the bound also keeps a small file from asking for a
/// large product.
const LARGEST_WINDOW: usize = 3;

/// Tensors of one layer in a file.
#[derive(Default)]
pub struct Tensors<'a> {
    by_role: BTreeMap<Role, Tensor<'a>>,
    alpha: Option<f32>,
}

/// The low-rank part of a layer's change, and the rest of it.
pub type Assembled = (Option<LoraModule>, Option<Change>);

impl<'a> Tensors<'a> {
    pub fn set(&mut self, role: Role, tensor: Tensor<'a>) -> Result<()> {
        if role == Role::Alpha {
            // diffusers' convert_state_dict_to_kohya writes whole numbers.
            let &[alpha] = tensor.to_finite_numbers()?.as_slice() else {
                return Err(tensor.error(format!("is an alpha and must be one number, has shape {:?}", tensor.shape)));
            };
            self.alpha = Some(alpha);
            return Ok(());
        }
        match self.by_role.entry(role) {
            // A layer that has two names in other programs may stand there under both.
            Entry::Occupied(there)
                if there.get().shape == tensor.shape && *there.get().bytes()? == *tensor.bytes()? =>
            {
                Ok(())
            }
            Entry::Occupied(_) => Err(tensor.error("names the same layer as another tensor of the file")),
            Entry::Vacant(place) => {
                place.insert(tensor);
                Ok(())
            }
        }
    }

    fn take(&mut self, name: &'static str) -> Option<Tensor<'a>> {
        self.by_role.remove(&Role::Lycoris(name))
    }

    /// Everything of layer `key`; `configured` gives the alpha of a rank where the file's tensors give none.
    pub fn assemble(
        mut self,
        file: &str,
        key: &ModuleKey,
        configured: impl FnOnce(usize) -> Option<f32>,
    ) -> Result<Assembled> {
        let wrong = |what: String| Error::file(file, format!("layer '{key}' {what}: {DAMAGED}"));
        let incomplete = || wrong("has only one of its two factors".into());
        let (down, up) = (self.by_role.remove(&Role::Down), self.by_role.remove(&Role::Up));
        let middle = self.take("lora_mid.weight");
        let module = match (down, up) {
            (Some(down), Some(up)) => Some(low_rank(&down, &up, middle.as_ref(), self.alpha, configured)?),
            (None, None) if middle.is_none() => None,
            _ => return Err(incomplete()),
        };
        let mut found = Vec::new();
        match (
            self.matrix(None, ["hada_w1_a", "hada_w1_b"], Some("hada_t1"))?,
            self.matrix(None, ["hada_w2_a", "hada_w2_b"], Some("hada_t2"))?,
        ) {
            (Some(a), Some(b)) => found.push(hadamard(a, b).map_err(wrong)?),
            (None, None) => {}
            _ => return Err(incomplete()),
        }
        match (
            self.matrix(Some("lokr_w1"), ["lokr_w1_a", "lokr_w1_b"], None)?,
            self.matrix(Some("lokr_w2"), ["lokr_w2_a", "lokr_w2_b"], Some("lokr_t2"))?,
        ) {
            (Some(a), Some(b)) => found.push(kronecker(a, b).map_err(wrong)?),
            (None, None) => {}
            _ => return Err(incomplete()),
        }
        if let Some(whole) = self.take("diff") {
            // A norm's factors have one extent.
            let norm = key.path.rsplit('.').next().is_some_and(|name| name.contains("norm"));
            let matrix = if norm { Matrix::Whole(factor(&whole, 1)?) } else { whole_matrix(&whole)? };
            found.push(WeightChange::Full(matrix));
        }
        let bias = self.take("diff_b").map(|bias| factor(&bias, 1)).transpose()?;
        if let Some(lost) = self.by_role.values().next() {
            return Err(lost.error(format!("does not go with the other tensors of layer '{key}': {DAMAGED}")));
        }
        if found.len() + usize::from(module.is_some()) > 1 {
            return Err(wrong("is changed in two ways at once".into()));
        }
        let weight = found.pop();
        if module.is_none() && weight.is_none() && bias.is_none() {
            return Err(wrong("has an alpha but no factors".into()));
        }
        let change = (weight.is_some() || bias.is_some()).then_some(Change { weight, bias, alpha: self.alpha });
        Ok((module, change))
    }

    /// The matrix that the layer has as `whole`, or as `a` and `b`, perhaps with `core` between them.
    fn matrix(
        &mut self,
        whole: Option<&'static str>,
        [a, b]: [&'static str; 2],
        core: Option<&'static str>,
    ) -> Result<Option<Matrix>> {
        if let Some(whole) = whole.and_then(|name| self.take(name)) {
            return whole_matrix(&whole).map(Some);
        }
        let core = core.and_then(|name| self.take(name));
        let (a, b) = match (self.take(a), self.take(b)) {
            (Some(a), Some(b)) => (a, b),
            (a, b) => {
                let lost = a.or(b).or(core).map(|t| t.error(format!("lacks its other factor: {DAMAGED}")));
                return lost.map_or(Ok(None), Err);
            }
        };
        let Some(core) = core else {
            let (left, right) = (factor(&a, 2)?, factor(&b, b.shape.len().max(2))?);
            return match left.shape[1] == right.shape[0] {
                true => Ok(Some(Matrix::Product(left, right))),
                false => Err(unfit(&a, &b)),
            };
        };
        let (middle, left, right) = (factor(&core, 4)?, factor(&a, 2)?, factor(&b, 2)?);
        match middle.shape[..2] == [left.shape[0], right.shape[0]] {
            true => Ok(Some(Matrix::Tucker { core: middle, a: left, b: right })),
            false => {
                let (shape, a, b) = (&core.shape, &a.shape, &b.shape);
                Err(core.error(format!("shape {shape:?} does not fit its factors of {a:?} and {b:?}: {DAMAGED}")))
            }
        }
    }
}

/// Two tensors that are no factors of each other.
fn unfit(a: &Tensor<'_>, b: &Tensor<'_>) -> Error {
    a.error(format!("shape {:?} does not fit '{}' with shape {:?}: {DAMAGED}", a.shape, b.name, b.shape))
}

/// LoHa of two matrices of the same shape; the one that does not tell the window apart takes the other's.
fn hadamard(a: Matrix, b: Matrix) -> Result<WeightChange, String> {
    let (first, second) = (a.shape(), b.shape());
    if a.size() != b.size() || (first.len() == second.len() && first != second) {
        return Err(format!("has LoHa factors that multiply to {first:?} and {second:?}, which must be alike"));
    }
    Ok(WeightChange::LoHa(a, b))
}

/// LoKr, of which only the second matrix may have a convolution's window.
fn kronecker(a: Matrix, b: Matrix) -> Result<WeightChange, String> {
    let shape = a.shape();
    if shape.iter().skip(2).any(|&extent| extent != 1) {
        return Err(format!("has a first LoKr factor of {shape:?}, expected two extents"));
    }
    Ok(WeightChange::LoKr(a, b))
}

fn whole_matrix(tensor: &Tensor<'_>) -> Result<Matrix> {
    Ok(Matrix::Whole(factor(tensor, tensor.shape.len().max(2))?))
}

/// The tensor's values, which must have `extents` extents, none of them 0.
fn factor(tensor: &Tensor<'_>, extents: usize) -> Result<Factor> {
    let shape = &tensor.shape;
    if shape.len() != extents || shape.contains(&0) {
        return Err(tensor.error(format!("has shape {shape:?}, expected {extents} extents above 0: {DAMAGED}")));
    }
    Ok(Factor { shape: shape.to_vec(), data: tensor.to_finite_f32()? })
}

fn low_rank(
    down: &Tensor<'_>,
    up: &Tensor<'_>,
    middle: Option<&Tensor<'_>>,
    alpha: Option<f32>,
    configured: impl FnOnce(usize) -> Option<f32>,
) -> Result<LoraModule> {
    let shapes = match (&*down.shape, &*up.shape) {
        // A 1x1 convolution's factor may come with or without its two extents of 1.
        (&[r, i], &[o, s] | &[o, s, 1, 1]) if r == s => Some((vec![r, i], vec![o, r])),
        (&[r, i, h, w], &[o, s] | &[o, s, 1, 1]) if r == s => Some((vec![r, i, h, w], vec![o, r, 1, 1])),
        _ => None,
    };
    let Some((down_shape, mut up_shape)) = shapes.filter(|(down, up)| !down.contains(&0) && !up.contains(&0)) else {
        return Err(unfit(down, up));
    };
    let rank = down_shape[0];
    let mut first = Factor { shape: down_shape, data: down.to_finite_f32()? };
    if let Some(middle) = middle {
        first = fold(middle, &first)?;
        up_shape = vec![up_shape[0], rank, 1, 1];
    }
    let up = Factor { shape: up_shape, data: up.to_finite_f32()? };
    Ok(LoraModule { down: first, up, alpha: alpha.or_else(|| configured(rank)) })
}

/// LoCon's third factor `[r, r, kh, kw]` behind `down [r, in]` or `[r, in, 1, 1]` is a larger first one,
/// `[r, in, kh, kw]`: nothing else needs to know of it.
fn fold(middle: &Tensor<'_>, down: &Factor) -> Result<Factor> {
    let (rank, inner) = (down.shape[0], down.shape[1]);
    let core = factor(middle, 4)?;
    let [kh, kw] = match (core.shape.as_slice(), down.shape.get(2..)) {
        (&[r, s, kh, kw], Some([] | [1, 1])) if r == rank && s == rank && kh.max(kw) <= LARGEST_WINDOW => [kh, kw],
        _ => {
            let (shape, first) = (&core.shape, &down.shape);
            let message = format!(
                "shape {shape:?} does not fit a first factor of {first:?} (a window is \
                 {LARGEST_WINDOW}x{LARGEST_WINDOW} at most): {DAMAGED}"
            );
            return Err(middle.error(message));
        }
    };
    let window = kh * kw;
    let mut data = Vec::with_capacity(rank * inner * window);
    for plane in core.data.chunks_exact(rank * window) {
        for i in 0..inner {
            data.extend((0..window).map(|k| {
                let sum = (0..rank).map(|r| f64::from(plane[r * window + k]) * f64::from(down.data[r * inner + i]));
                sum.sum::<f64>() as f32
            }));
        }
    }
    if data.iter().any(|x| !x.is_finite()) {
        return Err(middle.error(format!("times the first factor is more than f32 holds: {DAMAGED}")));
    }
    Ok(Factor { shape: vec![rank, inner, kh, kw], data })
}
