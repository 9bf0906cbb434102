//! The checks themselves: what they have to find, and what they have to let pass.

use super::*;

fn files(texts: &[(&str, &str)]) -> Vec<SourceFile> {
    texts.iter().map(|(path, text)| SourceFile::new(path, text)).collect()
}

fn circles_of(texts: &[(&str, &str)]) -> Vec<String> {
    wrong_circles(&files(texts))
}

#[test]
fn the_checks_can_fail() {
    for (path, text) in [
        ("src/base/a.rs", "use crate::gpu::Gpu;"),
        ("src/graph/a.rs", "use crate::{base::Shape, ops::{Op, grad}};"),
        ("src/gpu/mod.rs", "use super::graph::Graph;"),
        ("src/nn/deep/a.rs", "type T = super::super::super::models::Unet;"),
        ("src/io/a.rs", "fn f() { crate::diffusion::f() }"),
        ("src/io/a.rs", "const A: char = '\"'; fn f() { crate::diffusion::f() } const B: char = '\"';"),
        ("src/io/a.rs", "fn f<'a>(x: &'a str) { crate::diffusion::f() }"),
        ("src/engine/mod.rs", "use crate::cli;"),
        ("src/io/x.rs", "use crate::low_level::engine::Engine;"),
        ("src/io/x.rs", "fn f() { crate::low_level::diffusion::f() }"),
        ("src/unheard_of.rs", ""),
    ] {
        assert_eq!(wrong_imports(&files(&[(path, text)])).len(), 1, "{path}: {text}");
    }
    let named = files(&[("src/ops/a.rs", "fn f(b: wgpu::Buffer) {}")]);
    assert_eq!(wrong_mentions(&named, "wgpu", NAMES_WGPU).len(), 1);
    let hidden = files(&[("src/ops/mod.rs", "m! { mod $a; }"), ("src/ops/a.rs", ""), ("src/lib.rs", "mod ops;")]);
    assert_eq!(undeclared(&hidden), ["src/ops/a.rs: no line 'mod a;'"]);
}

#[test]
fn the_checks_let_good_code_pass() {
    let good = files(&[
        ("src/ops/a.rs", "//! See crate::models and wgpu.\nuse crate::graph::{Graph, Tensor};\nuse super::Op;"),
        (
            "src/gpu/b.rs",
            "use super::kernel::Kernel; use crate::error::{Error, Result}; fn f() { \"crate::ops\"; r#\"crate::nn\"#; }",
        ),
        ("src/io/c.rs", "fn f() {}\n#[cfg(test)]\nmod tests { use crate::engine::Engine; }\n/* crate::gpu /* */ */"),
        ("src/cli/mod.rs", "use portray::low_level::engine::Engine;"),
        ("src/nn/lora/d.rs", "use super::super::linear::Linear; use crate::ops::matmul;"),
    ]);
    none(wrong_imports(&good));
    none(wrong_mentions(&good, "wgpu", NAMES_WGPU));
    none(wrong_circles(&good));
}

#[test]
fn lengths_and_arguments_are_counted() {
    let found = |text: &str| too_long(&files(&[("src/a.rs", text)]));
    let body = |lines: usize| format!("{{{}}}", "\n".repeat(lines - 1));
    none(found(&format!("fn f() {}", body(60))));
    assert_eq!(found(&format!("fn f() {}", body(61))), ["src/a.rs: fn f has 61 lines"]);
    assert_eq!(found(&format!("impl A {{ fn f(&self) {} }}", body(61))).len(), 1);
    assert_eq!(found(&format!("#[allow(clippy::too_many_lines)]\nfn f() {}", body(61))).len(), 1, "no reason");
    let reasoned = "#[allow(clippy::too_many_lines, reason = \"a table\")]\nfn f()";
    none(found(&format!("{reasoned} {}", body(61))));
    assert_eq!(found(&format!("{reasoned} {{}}\nfn g() {}", body(61))).len(), 1, "another function's reason");
    none(found("fn f<T: Fn(A, B) -> C>(a: [A; 2], b: (B, B), c: fn(A, B) -> C, d: M<A, B>, e: E,) {}"));
    none(found("impl A { fn f(&mut self, a: A, b: B, c: C, d: D, e: E) {} }\ntrait B { fn f(a: A, b: B, c: C); }"));
    assert_eq!(found("fn f(a: A, b: B, c: C, d: D, e: M<A, B>, f: F) {}"), ["src/a.rs: fn f has 6 arguments"]);
    assert_eq!(found("fn f<const N: usize>(&self, a: A, b: B, c: C, d: D, e: E, f: F) {}").len(), 1);
    assert_eq!(found(&"\n".repeat(401)), ["src/a.rs: 401 lines"]);
    none(found(&format!("{}#[cfg(test)]\nmod tests {{ fn f() {} }}", "", body(90))));
}

#[test]
fn circles_of_two_and_three_files_are_found() {
    let two = [("src/io/mod.rs", "mod a; mod b;"), ("src/io/a.rs", "use super::b::B; struct A;"), ("src/io/b.rs", "")];
    for back in [
        "use super::a::A; struct B;",
        "use crate::io::a::A; struct B;",
        "use super::{a::{A}, c}; struct B;",
        "use super::a::*; struct B(A);",
        "use super::a; struct B(a::A);",
        "use super::a::{self as other}; struct B(other::A);",
        "struct B(super::a::A);",
        "struct B; mod inner { use super::super::a::A; }",
        "fn f() { use super::a::A; } struct B;",
    ] {
        let found = circles_of(&[two[0], two[1], ("src/io/b.rs", back)]);
        assert_eq!(found, ["src/io/a.rs -> src/io/b.rs"], "{back}");
    }
    for none_back in ["struct B; #[cfg(test)]\nmod tests { use super::super::a::A; }", "/// [`super::a::A`]\nstruct B;"]
    {
        none(circles_of(&[two[0], two[1], ("src/io/b.rs", none_back)]));
    }
    // Through the room's face, and through another face: the item counts, not the way to it.
    for face in ["mod a; mod b; pub use a::A; pub use b::B;", "mod a; mod b; pub use self::{a::*, b::*};"] {
        let found = circles_of(&[
            ("src/io/mod.rs", face),
            ("src/io/a.rs", "use super::B; pub struct A;"),
            ("src/io/b.rs", "use crate::io::A; pub struct B;"),
        ]);
        assert_eq!(found, ["src/io/a.rs -> src/io/b.rs"], "{face}");
    }
    let chain = circles_of(&[
        ("src/lib.rs", "pub mod io; pub use io::Outer as Way;"),
        ("src/io/mod.rs", "mod a; mod b; mod c; pub use c::Inner as Outer;"),
        ("src/io/a.rs", "pub struct A; pub type T = portray::Way;"),
        ("src/io/b.rs", "use super::a::A; pub struct B;"),
        ("src/io/c.rs", "pub use super::b::B as Inner;"),
    ]);
    assert_eq!(chain, ["src/io/a.rs -> src/io/b.rs"]);
    let three = circles_of(&[
        ("src/io/mod.rs", "mod a; mod b; mod c; pub use a::A; pub use b::B; pub use c::C;"),
        ("src/io/a.rs", "use super::B; pub struct A;"),
        ("src/io/b.rs", "use super::C; pub struct B;"),
        ("src/io/c.rs", "use super::A; pub struct C;"),
    ]);
    assert_eq!(three, ["src/io/a.rs -> src/io/b.rs -> src/io/c.rs"]);
}

/// A face that only re-exports is in no circle; one that defines what its files use, and uses them, is.
#[test]
fn a_face_that_works_is_in_a_circle() {
    let inner = ("src/io/a.rs", "use super::Checkpoint; pub fn open(c: Checkpoint) {}");
    none(circles_of(&[("src/io/mod.rs", "mod a; pub use a::open; pub struct Checkpoint;"), inner]));
    for face in [
        "mod a; pub use a::open; pub struct Checkpoint; fn f() { open(Checkpoint) }",
        "mod a; pub struct Checkpoint; fn f() { a::open(Checkpoint) }",
    ] {
        assert_eq!(circles_of(&[("src/io/mod.rs", face), inner]), ["src/io/a.rs -> src/io/mod.rs"], "{face}");
    }
}

/// The nine circles of version 0.1.0: its imports, shortened, and the items that they name.
const FIRST_VERSION: &[(&str, &[(&str, &str)])] = &[
    (
        "src/cli/demo/studio.rs -> src/cli/demo/subject.rs",
        &[
            ("src/cli/demo/mod.rs", "mod studio; mod subject; pub const RANK: usize = 4;"),
            (
                "src/cli/demo/studio.rs",
                "use super::subject::{self, Subject}; use super::RANK; pub const SIDE: usize = 64;",
            ),
            ("src/cli/demo/subject.rs", "use portray::io::image; use super::studio::SIDE; pub struct Subject;"),
        ],
    ),
    (
        "src/diffusion/sampler.rs -> src/diffusion/sigma_steps.rs",
        &[
            ("src/diffusion/mod.rs", "mod sampler; mod sigma_steps; pub use sampler::SamplerKind;"),
            (
                "src/diffusion/sampler.rs",
                "use super::{sigma_steps, time_steps}; pub enum SamplerKind {} pub(super) struct Recurrence;
                 pub(super) struct Resolved; fn f() { sigma_steps::recurrence() }",
            ),
            (
                "src/diffusion/sigma_steps.rs",
                "use super::sampler::{Recurrence, Resolved, SamplerKind}; pub(super) fn recurrence() -> Recurrence {}",
            ),
        ],
    ),
    (
        "src/io/checkpoints/mod.rs -> src/io/tokenizer.rs",
        &[
            (
                "src/io/mod.rs",
                "pub mod checkpoints; pub mod tokenizer; pub use tokenizer::{ClipTokenizer, TokenizerFiles};",
            ),
            (
                "src/io/checkpoints/mod.rs",
                "use super::tokenizer::{ClipTokenizer, TokenizerFiles}; pub(in crate::io) fn object() {}",
            ),
            (
                "src/io/tokenizer.rs",
                "pub struct ClipTokenizer; pub struct TokenizerFiles; fn f() { super::checkpoints::object(vocab)?; }",
            ),
        ],
    ),
    (
        "src/io/files/disk.rs -> src/io/source.rs",
        &[
            ("src/io/mod.rs", "pub mod files; pub mod source; pub use source::Source;"),
            (
                "src/io/files/mod.rs",
                "#[cfg(not(target_arch = \"wasm32\"))] mod disk; pub use system::open;
                 #[cfg(not(target_arch = \"wasm32\"))] mod system { pub use super::disk::open; }",
            ),
            ("src/io/files/disk.rs", "use crate::io::source::Data; pub fn open() -> Data {}"),
            ("src/io/source.rs", "use super::files; pub trait Data {} fn f() { files::open() }"),
        ],
    ),
    (
        "src/models/transformer.rs -> src/models/unet_blocks.rs",
        &[
            ("src/models/mod.rs", "mod transformer; mod unet_blocks;"),
            ("src/models/transformer.rs", "use super::unet_blocks::Build; pub struct Transformer2D;"),
            ("src/models/unet_blocks.rs", "use super::transformer::Transformer2D; pub(super) struct Build;"),
        ],
    ),
    (
        "src/nn/lora.rs -> src/nn/params.rs",
        &[
            ("src/nn/mod.rs", "mod lora; mod params; pub use lora::LoraSpec; pub use params::{Param, Scope};"),
            ("src/nn/lora.rs", "use super::params::{Pack, Param, Scope}; pub struct LoraSpec;"),
            ("src/nn/params.rs", "use super::lora::LoraSpec; pub struct Pack; pub struct Param; pub struct Scope;"),
        ],
    ),
    (
        "src/ops/attention.rs -> src/ops/attention_backward.rs",
        &[
            (
                "src/ops/mod.rs",
                "macro_rules! registry { ($($op:ident),* $(,)?) => { $(mod $op; pub use $op::*;)* } }
                 mod attention_backward; pub use attention_backward::AttentionBackward; registry! { attention }",
            ),
            ("src/ops/attention.rs", "use super::attention_backward::AttentionBackward; pub struct Attention;"),
            ("src/ops/attention_backward.rs", "use super::{Attention, Result}; pub struct AttentionBackward;"),
        ],
    ),
    (
        "src/gpu/device.rs -> src/gpu/watch.rs",
        &[
            ("src/gpu/mod.rs", "mod device; mod watch; pub use device::Gpu; pub(crate) use watch::Watch;"),
            ("src/gpu/device.rs", "use super::{Access, Watch}; pub struct Gpu;"),
            ("src/gpu/watch.rs", "use super::Gpu; pub struct Watch;"),
        ],
    ),
    (
        "src/gpu/buffers.rs -> src/gpu/waiting.rs",
        &[
            (
                "src/gpu/mod.rs",
                "mod buffers; mod device; mod waiting; pub use buffers::{STAGING_BYTES, Store}; pub use device::Gpu;",
            ),
            ("src/gpu/device.rs", "pub struct Gpu;"),
            ("src/gpu/buffers.rs", "use super::Gpu; use super::waiting::Signal; pub const STAGING_BYTES: u64 = 1;"),
            ("src/gpu/waiting.rs", "use super::{Gpu, STAGING_BYTES}; pub struct Signal;"),
        ],
    ),
];

#[test]
fn the_circles_of_the_first_version_are_found() {
    for (circle, texts) in FIRST_VERSION {
        assert_eq!(circles_of(texts), [*circle]);
        // Each half alone is none.
        for (i, (path, _)) in texts.iter().enumerate().filter(|(_, (path, _))| circle.contains(path)) {
            let mut half = texts.to_vec();
            half[i].1 = "";
            none(circles_of(&half));
            assert!(circle.contains(path));
        }
    }
}
