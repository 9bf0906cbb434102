//! `portray info`: adapters and how each would be used.

use portray::low_level::gpu::{self, AdapterEntry};
use portray::{Error, Result};
use serde_json::json;

use super::args::{Global, InfoArgs};
use super::{table, terminal};

/// Lists the adapters, or the licences.
pub fn run(global: &Global, args: &InfoArgs) -> Result<()> {
    if args.licenses {
        return licenses();
    }
    let adapters = pollster::block_on(gpu::adapters());
    if adapters.is_empty() {
        let remedy = "install a Vulkan driver (a software one: apt install mesa-vulkan-drivers)";
        return Err(Error::Device(format!("no GPU adapter answers: {remedy}")));
    }
    adapters.iter().enumerate().try_for_each(|(i, a)| if global.json { as_json(i, a) } else { print(i, a) })
}

fn licenses() -> Result<()> {
    #[cfg(feature = "bundled")]
    terminal::data(portray::low_level::io::bundled::NOTICE)?;
    terminal::data("Portray itself: MIT OR Apache-2.0.")
}

/// The adapter that `wanted` (an index or part of a name) means.
///
/// # Errors
/// [`Error::Usage`] listing what there is.
pub fn find<'a>(adapters: &'a [AdapterEntry], wanted: &str) -> Result<&'a AdapterEntry> {
    let lower = wanted.to_lowercase();
    let found = match wanted.parse::<usize>() {
        Ok(index) => adapters.get(index),
        Err(_) => adapters.iter().find(|a| a.info.name.to_lowercase().contains(&lower)),
    };
    found.ok_or_else(|| {
        let names = adapters.iter().map(|a| a.info.name.as_str()).collect::<Vec<_>>().join(", ");
        Error::value("adapter", wanted, format!("no such adapter; there are: {names}"))
    })
}

/// The feature tiers that an adapter offers; everything works at Base.
fn tiers(entry: &AdapterEntry) -> Vec<&'static str> {
    let has = |feature: &str| entry.features.iter_names().any(|(name, _)| name == feature);
    let all = [("F16", "SHADER_F16"), ("Subgroups", "SUBGROUP"), ("Matrix", "EXPERIMENTAL_COOPERATIVE_MATRIX")];
    std::iter::once("Base").chain(all.iter().filter(|(_, f)| has(f)).map(|(tier, _)| *tier)).collect()
}

fn print(index: usize, a: &AdapterEntry) -> Result<()> {
    let caps = a.caps();
    let class = format!("{:?}", a.class).to_lowercase();
    let row = |label: &str, value: String| vec![format!("  {label}"), value];
    let rows = [
        row("driver", format!("{} {}", a.info.driver, a.info.driver_info).trim().to_owned()),
        row("backend", format!("{:?}, {:?}", a.info.backend, a.info.device_type)),
        row("kernels", class),
        row("tiers", tiers(a).join(", ")),
        row("largest binding", table::bytes(caps.max_binding_bytes)),
        row("largest buffer", table::bytes(caps.max_buffer_bytes)),
        row("storage buffers a kernel", caps.max_storage_buffers.to_string()),
        row("workgroup memory", table::bytes(u64::from(a.limits.max_compute_workgroup_storage_size))),
        row("invocations a workgroup", a.limits.max_compute_invocations_per_workgroup.to_string()),
    ];
    terminal::data(format!("{index}  {}", a.info.name))?;
    let width = rows.iter().map(|r| r[0].len()).max().unwrap_or(0);
    rows.iter().try_for_each(|r| terminal::data(format!("{:<width$}  {}", r[0], r[1])))
}

fn as_json(index: usize, a: &AdapterEntry) -> Result<()> {
    let caps = a.caps();
    terminal::data(json!({
        "event": "adapter",
        "index": index,
        "name": a.info.name,
        "driver": a.info.driver,
        "driver_info": a.info.driver_info,
        "backend": format!("{:?}", a.info.backend),
        "type": format!("{:?}", a.info.device_type),
        "kernels": a.class,
        "tiers": tiers(a),
        "max_binding_bytes": caps.max_binding_bytes,
        "max_buffer_bytes": caps.max_buffer_bytes,
        "max_storage_buffers": caps.max_storage_buffers,
    }))
}
