//! Parameters by the names that checkpoints give them.

use std::fmt::Display;
use std::sync::{Arc, Mutex};

use super::settings::{Mode, Settings};
use crate::base::{DType, Shape, lock};
use crate::error::Result;
use crate::graph::{Graph, Tensor};

/// Conversion of a checkpoint tensor's layout to the stored one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pack {
    /// Unchanged.
    AsIs,
    /// `[out, in, kh, kw]` -> `[out, kh, kw, in]`
    Conv,
    /// A convolution of one pixel is a linear layer: `[out, in, 1, 1]` -> `[out, in]`.
    Pixel,
}

impl Pack {
    /// Returns the stored shape of a checkpoint tensor of `shape`.
    pub fn shape(self, shape: &[usize]) -> Shape {
        match (self, shape) {
            (Pack::Conv, &[out, input, kh, kw]) => [out, kh, kw, input].into(),
            (Pack::Pixel, &[out, input, ..]) => [out, input].into(),
            _ => shape.into(),
        }
    }
}

/// Role of a parameter in training and in LoRA files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Weight of a linear layer or convolution: a LoRA may target it.
    Weight,
    /// Biases, norms, tables.
    Other,
    /// A factor of a low-rank adapter: f32, and in no checkpoint.
    Adapter,
}

/// A checkpoint tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Part and name: `unet.conv_in.weight`.
    pub key: String,
    /// Shape in the checkpoint.
    pub shape: Vec<usize>,
}

/// A tensor in the store that one or more checkpoint tensors, stacked by rows, fill.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// Key in the store.
    pub key: String,
    /// Stored shape.
    pub shape: Shape,
    /// Storage type.
    pub dtype: DType,
    /// Layout change.
    pub pack: Pack,
    /// Role.
    pub role: Role,
    /// Checkpoint tensors, in order of their rows.
    pub sources: Vec<Source>,
}

impl Param {
    /// Returns its handle in `g`.
    pub fn get(&self, g: &mut Graph) -> Result<Tensor> {
        g.stored(&self.key, self.shape.clone(), self.dtype)
    }

    /// Bytes that it takes in the store.
    pub fn bytes(&self) -> u64 {
        self.dtype.bytes(self.shape.elements())
    }

    /// Number of values.
    pub fn elements(&self) -> usize {
        self.shape.elements()
    }
}

struct Shared {
    settings: Settings,
    params: Mutex<Vec<Param>>,
}

/// A path in a checkpoint, with the settings of the model that is built and a record of its parameters. Cheap to clone.
#[derive(Clone)]
pub struct Scope {
    path: String,
    shared: Arc<Shared>,
}

impl Scope {
    /// Creates the root of the part `part` (`unet`, `text_encoder`, `text_encoder_2`, `vae`).
    pub fn new(part: &str, settings: Settings) -> Scope {
        Scope { path: part.to_string(), shared: Arc::new(Shared { settings, params: Mutex::default() }) }
    }

    /// Returns the scope `name` below this one.
    pub fn pp(&self, name: impl Display) -> Scope {
        Scope { path: format!("{}.{name}", self.path), shared: self.shared.clone() }
    }

    /// Path from the part on: `unet.down_blocks.0`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Settings that the model's layers share.
    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// Returns whether `names` below this scope become one layer: in inference, if no adapter is trained beside any of
    /// them.
    pub fn fuses(&self, names: &[&str]) -> bool {
        let settings = self.settings();
        settings.mode == Mode::Inference
            && !names.iter().any(|n| settings.lora.as_ref().is_some_and(|l| l.covers(self.pp(n).path())))
    }

    /// Weight of a linear layer or convolution; `shape` and `pack` as in the checkpoint.
    pub fn weight(&self, shape: &[usize], pack: Pack) -> Param {
        self.param("weight", shape, pack, Role::Weight, self.storage(pack.shape(shape).last()))
    }

    /// Storage of this layer's tensor of rows of `columns`: half precision where blocks do not fill them, eight bits
    /// where four lose too much.
    pub fn storage(&self, columns: usize) -> DType {
        self.settings().storage(columns, [self.path()].into_iter())
    }

    /// Registers a bias or a norm's factors, in f32.
    pub fn vector(&self, name: &str, length: usize) -> Param {
        self.param(name, &[length], Pack::AsIs, Role::Other, DType::F32)
    }

    /// Any parameter `name` below here.
    pub fn param(&self, name: &str, shape: &[usize], pack: Pack, role: Role, dtype: DType) -> Param {
        let key = format!("{}.{name}", self.path);
        let sources = vec![Source { key: key.clone(), shape: shape.to_vec() }];
        self.register(Param { key, shape: pack.shape(shape), dtype, pack, role, sources })
    }

    /// Registers the parameters `name` of `layers`, each with its number of rows, stacked into one of `columns` columns
    /// (a vector if there are none), stored as `key` below this scope.
    pub fn stacked(&self, key: &str, name: &str, layers: &[(Scope, usize)], columns: Option<usize>) -> Param {
        let rows: usize = layers.iter().map(|(_, rows)| rows).sum();
        let shape = |rows: usize| [rows].into_iter().chain(columns).collect::<Vec<_>>();
        let source =
            |(scope, rows): &(Scope, usize)| Source { key: format!("{}.{name}", scope.path), shape: shape(*rows) };
        let (dtype, role) = match columns {
            Some(columns) => {
                let paths = layers.iter().map(|(scope, _)| scope.path());
                (self.settings().storage(columns, paths), Role::Weight)
            }
            None => (DType::F32, Role::Other),
        };
        self.register(Param {
            key: format!("{}.{key}.{name}", self.path),
            shape: shape(rows).into(),
            dtype,
            pack: Pack::AsIs,
            role,
            sources: layers.iter().map(source).collect(),
        })
    }

    pub(super) fn register(&self, param: Param) -> Param {
        lock(&self.shared.params).push(param.clone());
        param
    }

    /// Every registered parameter, in order.
    pub fn params(&self) -> Vec<Param> {
        lock(&self.shared.params).clone()
    }

    /// Registered parameters that `g` holds, in order. A model registers all that its checkpoint has; what was recorded
    /// may need fewer of them.
    pub fn params_in(&self, g: &Graph) -> Vec<Param> {
        self.params().into_iter().filter(|param| g.holds(&param.key)).collect()
    }

    /// Every linear layer and convolution, by path from the part on, with its weight's shape in the checkpoint: what a
    /// LoRA file may name.
    pub fn modules(&self) -> Vec<(String, Vec<usize>)> {
        let params = self.params();
        let weights = params.iter().filter(|p| p.role == Role::Weight).flat_map(|p| &p.sources);
        weights.map(|s| (s.key.trim_end_matches(".weight").to_string(), s.shape.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_parameters_and_packing_gives_shapes() {
        let root = Scope::new("unet", Settings { dtype: DType::F16, ..Settings::default() });
        let conv = root.pp("down_blocks").pp(0).weight(&[8, 4, 3, 2], Pack::Conv);
        assert_eq!(conv.key, "unet.down_blocks.0.weight");
        assert_eq!(*conv.shape, [8, 3, 2, 4]);
        assert_eq!(conv.dtype, DType::F16);
        let eight_bits = std::sync::Arc::new([String::from("unet.kept")].into());
        let root4 = Scope::new("unet", Settings { dtype: DType::Q4, eight_bits, ..Settings::default() });
        let of = |name: &str, columns: usize| root4.pp(name).weight(&[2, columns], Pack::AsIs).dtype;
        assert_eq!([of("other", 64), of("kept", 64), of("other", 96)], [DType::Q4, DType::Q8, DType::F16]);
        let both = [(root4.pp("other"), 2), (root4.pp("kept"), 2)];
        assert_eq!(root4.stacked("both", "weight", &both, Some(64)).dtype, DType::Q8);
        let bias = root.vector("bias", 5);
        assert_eq!(bias.dtype, DType::F32);
        let pixel = root.pp("proj_in").weight(&[6, 4, 1, 1], Pack::Pixel);
        assert_eq!(*pixel.shape, [6, 4]);
        let stacked = root.stacked("to_kv", "weight", &[(root.pp("to_k"), 3), (root.pp("to_v"), 2)], Some(7));
        assert_eq!(*stacked.shape, [5, 7]);
        assert_eq!(stacked.sources[1], Source { key: "unet.to_v.weight".into(), shape: vec![2, 7] });
        assert_eq!(root.params().len(), 4);
        let modules: Vec<String> = root.modules().into_iter().map(|(path, _)| path).collect();
        assert_eq!(modules, ["unet.down_blocks.0", "unet.proj_in", "unet.to_k", "unet.to_v"]);
    }
}
