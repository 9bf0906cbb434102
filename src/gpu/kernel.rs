//! Kernels: WGSL templates rendered with minijinja, under a generated header.
//!
//! A template reads as WGSL. Its header is generated from what the op binds, so the two cannot disagree: the uniform
//! struct `p`, the storage bindings, and for a binding `x` the functions `x_at(i)`, `x_at4(i)`, and if it is written
//! `x_put(i, v)`, `x_put4(i, v)`. They hide the storage type: a body works on f32 and on packed half alike.
//! `x_at4`'s index counts `vec4`s. Line statements start with `//%`.
//!
//! A body finds its workgroup with `linear_workgroup(workgroup_id, num_workgroups)`, which counts from the first one of a
//! dispatch that is run in slices.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::OnceLock;

use minijinja::{Environment, UndefinedBehavior, Value, syntax::SyntaxConfig};

use crate::base::DType;
use crate::error::{Error, Result};

/// Shader template: its name and text (`shaders/<name>.wgsl`).
///
/// A text that calls `linear_workgroup` (or includes `lib/team.wgsl`) may run some of its workgroups at a time. It must
/// use the number of workgroups for that call alone, and no workgroup may depend on another having run. A text without
/// this call always runs whole.
#[derive(Clone, Copy, Debug)]
pub struct Template {
    /// Stem of the file's name.
    pub name: &'static str,
    /// The file's text.
    pub text: &'static str,
    /// Whether it runs without bounds checks, because this crate's tests have checked every access.
    pub(crate) trusted: bool,
}

impl Template {
    /// Template of another crate; its kernels keep wgpu's bounds checks.
    pub const fn new(name: &'static str, text: &'static str) -> Template {
        Template { name, text, trusted: false }
    }

    /// Template whose kernels run without bounds checks.
    ///
    /// # Safety
    /// Every kernel rendered from it must keep its indices within its bindings, and its loops finite.
    pub const unsafe fn trusted(name: &'static str, text: &'static str) -> Template {
        Template { name, text, trusted: true }
    }
}

/// Loads the template `shaders/softmax.wgsl`: `shader!("softmax")`.
macro_rules! shader {
    ($name:literal) => {
        $crate::gpu::Template {
            name: $name,
            text: include_str!(concat!("../../shaders/", $name, ".wgsl")),
            trusted: true,
        }
    };
}
pub(crate) use shader;

/// Files that templates may `include`.
const LIBRARY: &[(&str, &str)] = &[
    ("lib/activation.wgsl", include_str!("../../shaders/lib/activation.wgsl")),
    ("lib/activation_more.wgsl", include_str!("../../shaders/lib/activation_more.wgsl")),
    ("lib/geometry.wgsl", include_str!("../../shaders/lib/geometry.wgsl")),
    ("lib/gemm_epilogue.wgsl", include_str!("../../shaders/lib/gemm_epilogue.wgsl")),
    ("lib/group_norm.wgsl", include_str!("../../shaders/lib/group_norm.wgsl")),
    ("lib/team.wgsl", include_str!("../../shaders/lib/team.wgsl")),
    ("lib/gemm_row.wgsl", include_str!("../../shaders/lib/gemm_row.wgsl")),
];

/// Declaration of a storage binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// `var<storage, read>`: no dispatch of the plan writes this buffer while it is bound here.
    Read,
    /// `var<storage, read_write>`: memory of the arena, because WebGPU lets a dispatch bind one buffer twice only this
    /// way; inputs, so that kernels need not differ; and, on software adapters, all memory.
    ReadWrite,
}

/// Type and value of a uniform field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Field {
    /// `u32`
    U32(u32),
    /// `f32`
    F32(f32),
}

/// Storage binding under one name of a kernel's text.
#[derive(Clone, Debug, PartialEq)]
pub struct BindingSpec {
    /// Name in the text.
    pub name: &'static str,
    /// Storage type.
    pub dtype: DType,
    /// Uses the `vec4` accessors.
    pub vec4: bool,
    /// Is written.
    pub written: bool,
    /// Declaration.
    pub access: Access,
    /// Index among the bindings. Names of equal memory share one, except for absent operands.
    pub slot: usize,
}

/// Sets a word of a kernel's traps that no sentinel has.
const TRAPPED: u32 = 0;

/// Kernel before rendering: template, values, bindings and uniform fields.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The template.
    pub template: Template,
    /// Template values.
    pub values: BTreeMap<&'static str, Value>,
    /// Storage bindings by name.
    pub bindings: Vec<BindingSpec>,
    /// Uniform fields, in order.
    pub fields: Vec<(&'static str, Field)>,
    /// Words behind the fields: `p.table`, an array of vectors of four.
    pub table: Vec<u32>,
    /// Notes accesses outside of a binding, in one more binding behind the others: a word for each.
    pub trapped: bool,
}

fn environment() -> Result<&'static Environment<'static>> {
    static ENVIRONMENT: OnceLock<Result<Environment<'static>, String>> = OnceLock::new();
    let built = ENVIRONMENT.get_or_init(|| {
        let mut env = Environment::new();
        env.set_undefined_behavior(UndefinedBehavior::Strict);
        let syntax = SyntaxConfig::builder().line_statement_prefix("//%").build().map_err(|e| e.to_string())?;
        env.set_syntax(syntax);
        env.set_keep_trailing_newline(true);
        for (name, text) in LIBRARY {
            env.add_template(name, text).map_err(|e| format!("{e:#}"))?;
        }
        Ok(env)
    });
    built.as_ref().map_err(|e| Error::Internal(format!("shader library: {e}")))
}

impl Kernel {
    /// Key that differs between kernels of different texts; needs no rendering.
    pub(crate) fn key(&self) -> String {
        let Template { name, text, trusted } = self.template;
        let fields: Vec<_> = self.fields.iter().map(|(name, field)| (name, matches!(field, Field::U32(_)))).collect();
        // Texts are static: where one lies says which it is.
        let Kernel { values, bindings, trapped, table, .. } = self;
        let words = table.len();
        format!("{name} {:p} {trusted} {trapped} {values:?} {bindings:?} {fields:?} {words}", text.as_ptr())
    }

    /// Renders the WGSL text: header and template.
    ///
    /// # Errors
    /// If the template cannot be rendered.
    pub fn render(&self) -> Result<String> {
        let body = environment()?
            .render_named_str(self.template.name, self.template.text, &self.values)
            .map_err(|e| Error::Internal(format!("shaders/{}.wgsl: {e:#}", self.template.name)))?;
        Ok(self.header() + &body)
    }

    /// Returns whether some of its workgroups can run alone: its text finds them only by `linear_workgroup`, as
    /// [`Template`] requires.
    pub fn can_be_cut(&self) -> bool {
        let text = self.template.text;
        text.contains("linear_workgroup(") || text.contains("lib/team.wgsl")
    }

    /// Bytes of the uniform block, a multiple of 16. The first four hold the first workgroup that runs.
    pub fn uniform_bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = Vec::with_capacity(4 + self.fields.len() * 4);
        bytes.extend(0u32.to_le_bytes());
        for (_, field) in &self.fields {
            match field {
                Field::U32(v) => bytes.extend(v.to_le_bytes()),
                Field::F32(v) => bytes.extend(v.to_le_bytes()),
            }
        }
        bytes.resize(bytes.len().next_multiple_of(16), 0);
        bytes.extend_from_slice(bytemuck::cast_slice(&self.table));
        bytes.resize(bytes.len().next_multiple_of(16), 0);
        bytes
    }

    /// Distinct bindings by slot: `(access, written)`.
    pub fn slots(&self) -> Vec<Access> {
        let count = self.bindings.iter().map(|b| b.slot + 1).max().unwrap_or(0);
        (0..count)
            .map(|slot| {
                let shared = self.bindings.iter().filter(|b| b.slot == slot);
                if shared.clone().any(|b| b.access == Access::ReadWrite || b.written) {
                    Access::ReadWrite
                } else {
                    Access::Read
                }
            })
            .chain(self.trapped.then_some(Access::ReadWrite))
            .collect()
    }

    fn header(&self) -> String {
        let mut h = String::from("struct Params {\n    first_workgroup_: u32,\n");
        for (name, field) in &self.fields {
            let ty = if matches!(field, Field::U32(_)) { "u32" } else { "f32" };
            let _ = writeln!(h, "    {name}: {ty},");
        }
        let used = 1 + self.fields.len();
        let pad = used.next_multiple_of(4) - used;
        for i in 0..pad {
            let _ = writeln!(h, "    pad{i}_: u32,");
        }
        if !self.table.is_empty() {
            let _ = writeln!(h, "    table: array<vec4<u32>, {}>,", self.table.len().div_ceil(4));
        }
        h.push_str("}\n@group(0) @binding(0) var<uniform> p: Params;\n");
        let slots = self.slots();
        for (slot, access) in slots.iter().enumerate() {
            self.declare(&mut h, slot, *access);
        }
        if self.trapped {
            let _ = writeln!(h, "@group(0) @binding({}) var<storage, read_write> traps_: array<u32>;", slots.len());
        }
        h.push_str(
            "fn linear_workgroup(w: vec3<u32>, n: vec3<u32>) -> u32 {\n    return p.first_workgroup_ + w.x + n.x * (w.y + n.y * w.z);\n}\n",
        );
        h
    }

    fn declare(&self, h: &mut String, slot: usize, access: Access) {
        let names: Vec<&BindingSpec> = self.bindings.iter().filter(|b| b.slot == slot).collect();
        let Some(first) = names.first() else { return };
        // Names that share memory share one declaration: vec4 only where all of them want it.
        let vec4 = names.iter().all(|b| b.vec4);
        let element = match (first.dtype, vec4) {
            (DType::F32, false) => "f32",
            (DType::F32, true) => "vec4<f32>",
            (DType::F16, false) | (DType::U32, false) | (DType::Q8 | DType::Q4, _) => "u32",
            (DType::F16, true) => "vec2<u32>",
            (DType::U32, true) => "vec4<u32>",
        };
        let mode = if access == Access::ReadWrite { "read_write" } else { "read" };
        let var = format!("{}_", first.name);
        let _ = writeln!(h, "@group(0) @binding({}) var<storage, {mode}> {var}: array<{element}>;", slot + 1);
        if self.trapped {
            let outside = format!("traps_[{slot}u] = {TRAPPED}u; return 0u;");
            let _ =
                writeln!(h, "fn {var}in(i: u32) -> u32 {{ if i >= arrayLength(&{var}) {{ {outside} }} return i; }}");
        }
        for b in &names {
            accessors(h, b, &var, vec4, self.trapped);
        }
    }
}

/// Writes the functions through which the text reads and writes binding `b`, declared as `var` of `vec4`s or scalars.
fn accessors(h: &mut String, b: &BindingSpec, var: &str, vec4: bool, trapped: bool) {
    let n = b.name;
    let scalar = if b.dtype == DType::U32 { "u32" } else { "f32" };
    let (o, c) = match trapped {
        true => (format!("{var}[{var}in("), ")]"),
        false => (format!("{var}["), "]"),
    };
    let (at, at4) = match (b.dtype, vec4) {
        (DType::F32 | DType::U32, false) => (
            format!("{o}i{c}"),
            format!("vec4<{scalar}>({o}4u * i{c}, {o}4u * i + 1u{c}, {o}4u * i + 2u{c}, {o}4u * i + 3u{c})"),
        ),
        (DType::F32 | DType::U32, true) => (format!("{o}i >> 2u{c}[i & 3u]"), format!("{o}i{c}")),
        (DType::F16, false) => (
            format!("unpack2x16float({o}i >> 1u{c})[i & 1u]"),
            format!("vec4<f32>(unpack2x16float({o}2u * i{c}), unpack2x16float({o}2u * i + 1u{c}))"),
        ),
        // Seventeen words a block: its scale and sixteen of four bytes.
        (DType::Q8, _) => (
            format!(
                "bitcast<f32>({o}(i >> 6u) * 17u{c}) * unpack4x8snorm({o}(i >> 6u) * 17u + 1u + ((i >> 2u) & 15u){c})[i & 3u]"
            ),
            format!("bitcast<f32>({o}(i >> 4u) * 17u{c}) * unpack4x8snorm({o}(i >> 4u) * 17u + 1u + (i & 15u){c})"),
        ),
        (DType::Q4, _) => return four_bits(h, n, &o, c),
        (DType::F16, true) => (
            format!("unpack2x16float({o}i >> 2u{c}[(i >> 1u) & 1u])[i & 1u]"),
            format!("vec4<f32>(unpack2x16float({o}i{c}.x), unpack2x16float({o}i{c}.y))"),
        ),
    };
    let _ = writeln!(h, "fn {n}_at(i: u32) -> {scalar} {{ return {at}; }}");
    let _ = writeln!(h, "fn {n}_at4(i: u32) -> vec4<{scalar}> {{ return {at4}; }}");
    if !b.written {
        return;
    }
    // Two halves share a word, so a lone half cannot be written without a race: only whole vectors are.
    let put4 = match (b.dtype, vec4) {
        (DType::F16, true) => {
            format!("{o}i{c} = vec2<u32>(pack2x16float(v.xy), pack2x16float(v.zw));")
        }
        (DType::F16, false) => {
            format!("{o}2u * i{c} = pack2x16float(v.xy); {o}2u * i + 1u{c} = pack2x16float(v.zw);")
        }
        (_, true) => format!("{o}i{c} = v;"),
        (_, false) => {
            format!("{o}4u * i{c} = v.x; {o}4u * i + 1u{c} = v.y; {o}4u * i + 2u{c} = v.z; {o}4u * i + 3u{c} = v.w;")
        }
    };
    let _ = writeln!(h, "fn {n}_put4(i: u32, v: vec4<{scalar}>) {{ {put4} }}");
    match (b.dtype, vec4) {
        (DType::F16, _) => {}
        (_, true) => {
            let _ = writeln!(h, "fn {n}_put(i: u32, v: {scalar}) {{ {o}i >> 2u{c}[i & 3u] = v; }}");
        }
        (_, false) => {
            let _ = writeln!(h, "fn {n}_put(i: u32, v: {scalar}) {{ {o}i{c} = v; }}");
        }
    }
}

/// Writes the functions that read binding `n`, five words a block: scale and minimum, then eight codes a word, of which
/// the last four lie in the high halves of the bytes. `o` and `c` stand around an index.
fn four_bits(h: &mut String, n: &str, o: &str, c: &str) {
    let value = "bitcast<f32>(line << 16u) * codes + bitcast<f32>(line & 0xffff0000u)";
    let _ = writeln!(
        h,
        "fn {n}_at(i: u32) -> f32 {{
    let block = (i >> 5u) * 5u;
    let line = {o}block{c};
    let eight = {o}block + 1u + ((i >> 3u) & 3u){c};
    let codes = f32((eight >> (((i & 3u) << 3u) | (i & 4u))) & 15u);
    return {value};
}}
fn {n}_at4(i: u32) -> vec4<f32> {{
    let block = (i >> 3u) * 5u;
    let line = {o}block{c};
    let four = ({o}block + 1u + ((i >> 1u) & 3u){c} >> ((i & 1u) << 2u)) & 0x0f0f0f0fu;
    let codes = vec4<f32>((vec4<u32>(four) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(255u));
    return {value};
}}"
    );
}

#[cfg(test)]
mod tests {
    /// Uses of the number of workgroups but as an argument of `linear_workgroup` or `team`.
    fn other_uses(text: &str) -> Vec<String> {
        let mut found = Vec::new();
        for builtin in text.split("@builtin(num_workgroups) ").skip(1) {
            let name: String = builtin.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            // The entry point that it is an argument of.
            let body = builtin.split("@builtin(num_workgroups)").next().unwrap_or_default();
            let words: Vec<&str> =
                body.split_inclusive(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.')).collect();
            let is_name = |word: &str| word.split(|c: char| !(c.is_alphanumeric() || c == '_')).next() == Some(&name);
            for at in (1..words.len()).filter(|&at| is_name(words[at])) {
                let call = words[at.saturating_sub(3)..=at].concat();
                let whole = !words[at].contains('.');
                if !(whole && (call.starts_with("linear_workgroup(w, ") || call.starts_with("team(w, "))) {
                    found.push(call);
                }
            }
        }
        found
    }

    #[test]
    fn kernels_that_are_cut_use_the_number_of_workgroups_to_find_themselves_alone() {
        let good = "@builtin(num_workgroups) n: vec3<u32>,\n) {\n    let i = linear_workgroup(w, n) * 64u + lane;\n}";
        assert!(other_uses(good).is_empty(), "{:?}", other_uses(good));
        assert_eq!(other_uses(&good.replace("+ lane", "+ n.x")).len(), 1);
        assert_eq!(other_uses(&good.replace("lane", "stride(n)")).len(), 1);
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/shaders");
        let mut seen = 0;
        for entry in std::fs::read_dir(folder).unwrap().chain(std::fs::read_dir(format!("{folder}/lib")).unwrap()) {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "wgsl") {
                let text = std::fs::read_to_string(&path).unwrap();
                seen += text.matches("@builtin(num_workgroups)").count();
                assert!(other_uses(&text).is_empty(), "{}: {:?}", path.display(), other_uses(&text));
            }
        }
        assert!(seen > 30, "{seen}");
    }
}
