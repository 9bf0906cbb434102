//! Every kernel of every op case, for both adapter classes, without a GPU: naga parses and validates it, the bindings,
//! uniforms and workgroup agree with what the op declares and with WebGPU's default limits, and it translates to
//! SPIR-V, MSL, HLSL and GLSL.

use std::collections::BTreeMap;

use naga::back::{glsl, hlsl, msl, spv};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Module, ShaderStage};
use portray::low_level::gpu::{AdapterClass, Caps, Kernel, Variants};
use portray::low_level::graph::{Graph, Plan, PlanOptions};
use portray::low_level::ops::{cases, large_tiles};

/// All distinct kernels, by text.
fn kernels(caps: &Caps, variants: &Variants) -> BTreeMap<String, (String, Kernel)> {
    let mut found = BTreeMap::new();
    for (op, cases) in cases() {
        for case in cases {
            let mut g = Graph::new();
            let inputs: Vec<_> = (case.inputs.iter().enumerate())
                .map(|(i, given)| {
                    g.stored(&format!("operand{i}"), given.shape().clone(), given.dtype()).expect("operand")
                })
                .collect();
            let outputs = g.push_dyn(case.op.clone(), &inputs).expect(op);
            outputs.iter().for_each(|&t| g.output(t));
            let plan = Plan::new(&g, caps, variants, &PlanOptions::default()).expect(op);
            for kernel in plan.kernels() {
                found.insert(kernel.render().expect(op), (op.to_string(), kernel.clone()));
            }
        }
    }
    found
}

fn validate(text: &str, more: Capabilities) -> Result<(Module, ModuleInfo), String> {
    let module = naga::front::wgsl::parse_str(text).map_err(|e| e.emit_to_string(text))?;
    let info = Validator::new(ValidationFlags::all(), Capabilities::SHADER_FLOAT16_IN_FLOAT32 | more)
        .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
        .subgroup_operations(naga::valid::SubgroupOperationSet::all())
        .validate(&module);
    let info = info.map_err(|e| e.emit_to_string(text))?;
    Ok((module, info))
}

/// What the op declares, against what the text has.
fn reflect(kernel: &Kernel, module: &Module) -> Result<(), String> {
    let entry = module.entry_points.iter().find(|e| e.name == "main").ok_or("no entry point main")?;
    let threads: u32 = entry.workgroup_size.iter().product();
    if threads > 256 {
        return Err(format!("{threads} threads, WebGPU's default limit is 256"));
    }
    let mut layouter = naga::proc::Layouter::default();
    layouter.update(module.to_ctx()).map_err(|e| e.to_string())?;
    let (mut storage, mut shared) = (0, 0);
    for (_, v) in module.global_variables.iter() {
        match v.space {
            AddressSpace::Uniform => {
                let size = layouter[v.ty].size as usize;
                if size != kernel.uniform_bytes().len() {
                    return Err(format!(
                        "uniform block of {size} bytes, the op writes {}",
                        kernel.uniform_bytes().len()
                    ));
                }
            }
            AddressSpace::Storage { .. } => storage += 1,
            AddressSpace::WorkGroup => shared += layouter[v.ty].size,
            _ => {}
        }
    }
    if storage != kernel.slots().len() || storage > 8 {
        return Err(format!("{storage} storage bindings, the op binds {}, 8 are allowed", kernel.slots().len()));
    }
    if shared > 16384 {
        return Err(format!("{shared} bytes of workgroup memory, 16384 are allowed"));
    }
    Ok(())
}

fn to_spirv(module: &Module, info: &ModuleInfo, version: (u8, u8)) -> Result<(), String> {
    let options = spv::Options { lang_version: version, ..Default::default() };
    let pipeline = spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: "main".into() };
    spv::write_vec(module, info, &options, Some(&pipeline)).map(drop).map_err(|e| format!("SPIR-V: {e}"))
}

/// Base kernels reach all four; a gap that is not listed here fails.
fn translate(module: &Module, info: &ModuleInfo) -> Result<(), String> {
    let entry = "main".to_string();
    to_spirv(module, info, spv::Options::default().lang_version)?;
    let options = msl::Options { lang_version: (2, 4), ..Default::default() };
    msl::write_string(module, info, &options, &msl::PipelineOptions::default()).map_err(|e| format!("MSL: {e}"))?;

    let target = hlsl::BindTarget { space: 255, ..Default::default() };
    let options = hlsl::Options { special_constants_binding: Some(target), ..Default::default() };
    let pipeline = hlsl::PipelineOptions { entry_point: Some((ShaderStage::Compute, entry.clone())) };
    let mut text = String::new();
    hlsl::Writer::new(&mut text, &options, &pipeline).write(module, info, None).map_err(|e| format!("HLSL: {e}"))?;

    let options = glsl::Options { version: glsl::Version::Desktop(430), ..Default::default() };
    let pipeline = glsl::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: entry, multiview: None };
    let mut text = String::new();
    glsl::Writer::new(&mut text, module, info, &options, &pipeline, Default::default())
        .and_then(|mut w| w.write())
        .map_err(|e| format!("GLSL: {e}"))?;
    Ok(())
}

#[test]
fn every_kernel_is_valid_and_reaches_every_backend() {
    let mut wrong = Vec::new();
    for (class, subgroup) in [(AdapterClass::Cpu, 0), (AdapterClass::Cpu, 8), (AdapterClass::Gpu, 0)] {
        let caps = Caps { subgroup, ..Caps::webgpu_defaults(class) };
        let mut kernels = kernels(&caps, &Variants::default());
        // Those that share within a subgroup have a test of their own.
        kernels.retain(|text, _| !text.contains("subgroupBroadcast"));
        kernels
            .extend(large_tiles().iter().filter(|_| subgroup == 0).flat_map(|variants| self::kernels(&caps, variants)));
        assert!(kernels.len() > 50, "only {} kernels were found", kernels.len());
        for (text, (op, kernel)) in kernels {
            let result = validate(&text, Capabilities::empty()).and_then(|(module, info)| {
                reflect(&kernel, &module)?;
                translate(&module, &info)
            });
            if let Err(e) = result {
                wrong.push(format!("{op} / {} ({class:?}): {e}", kernel.template.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{} kernels fail:\n{}", wrong.len(), wrong[..wrong.len().min(4)].join("\n"));
}

/// Software drivers are Vulkan, and only they run these.
#[test]
fn kernels_that_share_within_a_subgroup_are_valid_and_reach_vulkan() {
    let caps = Caps { subgroup: 8, ..Caps::webgpu_defaults(AdapterClass::Cpu) };
    let (mut sharing, mut wrong) = (0, Vec::new());
    for (text, (op, kernel)) in kernels(&caps, &Variants::default()) {
        if !text.contains("subgroupBroadcast") {
            continue;
        }
        sharing += 1;
        assert!(validate(&text, Capabilities::empty()).is_err(), "{op} needs a feature that Base lacks");
        let result = validate(&text, Capabilities::SUBGROUP).and_then(|(module, info)| {
            reflect(&kernel, &module)?;
            to_spirv(&module, &info, (1, 3))
        });
        if let Err(e) = result {
            wrong.push(format!("{op} / {}: {e}", kernel.template.name));
        }
    }
    assert!(sharing > 20, "only {sharing} kernels share");
    assert!(wrong.is_empty(), "{} kernels fail:\n{}", wrong.len(), wrong[..wrong.len().min(4)].join("\n"));
}

#[test]
fn the_checks_reject_what_is_wrong() {
    assert!(validate("@compute @workgroup_size(1) fn main() { let x: f32 = 1u; }", Capabilities::empty()).is_err());
    let (module, _) =
        validate("@compute @workgroup_size(257) fn main() {}", Capabilities::empty()).expect("valid WGSL");
    let kernels = kernels(&Caps::webgpu_defaults(AdapterClass::Cpu), &Variants::default());
    let (_, kernel) = kernels.values().next().expect("a kernel");
    assert!(reflect(kernel, &module).is_err());
    let (module, _) = validate("@compute @workgroup_size(1) fn main() {}", Capabilities::empty()).expect("valid WGSL");
    assert!(reflect(kernel, &module).is_err(), "missing bindings must be seen");
}
