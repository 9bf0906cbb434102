//! Selection of the fastest kernel variants for an adapter: measured once, stored on disk per adapter and driver.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use web_time::Instant;

use crate::error::Result;
use crate::gpu::{AdapterClass, Gpu, Pool, Store, Variants};
use crate::graph::{Graph, Plan, PlanOptions, Session};
use crate::io;
use crate::ops::{Choice, choices};

/// Timed runs of each variant, interleaved with the others. The fastest counts: disturbances only slow a run down.
const RUNS: usize = 5;
/// Share of the time that another variant must save to replace the first.
const GAIN: f64 = 0.05;

/// Returns the variants for `gpu` that `folder` stores; if there are none, measures and stores them.
///
/// Software drivers get the default variants: compiling the candidates takes them seconds, and the defaults were fastest on
/// every one that was measured. A folder that cannot be read or written only costs a new measurement each time.
///
/// # Errors
/// [`Error::Device`](crate::Error::Device) if the device fails.
pub(super) async fn remembered(gpu: &Gpu, folder: &Path) -> Result<Variants> {
    if let Some(found) = known(gpu, folder) {
        return Ok(found);
    }
    if gpu.caps().class == AdapterClass::Cpu {
        return Ok(Variants::default());
    }
    measured(gpu, folder).await
}

/// Measures the variants that are fastest on `gpu` and stores them in `folder`.
async fn measured(gpu: &Gpu, folder: &Path) -> Result<Variants> {
    let measured = measure(gpu).await?;
    if let Ok(json) = serde_json::to_vec_pretty(&measured)
        && let Err(e) = io::write_atomic(file(gpu, folder), |out| out.write_all(&json))
    {
        log::info!("the choice of kernels is not kept: {e}");
    }
    Ok(measured)
}

/// Reads the variants for `gpu` from `folder`, if it holds them.
pub(super) fn known(gpu: &Gpu, folder: &Path) -> Option<Variants> {
    read(&file(gpu, folder), gpu)
}

/// Path of the file for this adapter, driver and version of Portray.
fn file(gpu: &Gpu, folder: &Path) -> PathBuf {
    let (info, version) = (gpu.info(), env!("CARGO_PKG_VERSION"));
    let key = format!("{}\n{}\n{}\n{:?}\n{version}", info.name, info.driver, info.driver_info, info.backend);
    let digest: String = Sha256::digest(key.as_bytes()).iter().take(8).map(|b| format!("{b:02x}")).collect();
    folder.join(format!("{digest}.json"))
}

/// Reads the variants at `path`, if it names a known variant for every choice and nothing else.
fn read(path: &Path, gpu: &Gpu) -> Option<Variants> {
    let found: Variants = serde_json::from_slice(&io::Source::open(path).ok()?.bytes().ok()?).ok()?;
    let choices = choices(gpu.caps());
    let known = |choice: &Choice| found.get(choice.key).is_some_and(|v| choice.variants.contains(&v));
    (found.chosen.len() == choices.len() && choices.iter().all(known)).then_some(found)
}

async fn measure(gpu: &Gpu) -> Result<Variants> {
    let mut measured = Variants::default();
    for choice in choices(gpu.caps()) {
        let mut sessions = Vec::new();
        for name in choice.variants {
            let variants = Variants { chosen: [(choice.key.to_owned(), (*name).to_owned())].into() };
            let mut g = Graph::new();
            (choice.probe)(&mut g)?.into_iter().for_each(|t| g.output(t));
            let plan = Plan::new(&g, gpu.caps(), &variants, &PlanOptions::default())?;
            let mut store = Store::new(gpu);
            let tensors: Vec<(String, u64)> = plan.stored.iter().map(|(k, b)| (k.clone(), *b)).collect();
            store.allocate("probe", &tensors)?;
            sessions.push((*name, Session::new(gpu, plan, &mut Pool::default(), &store).await?, f64::INFINITY));
        }
        for run in 0..=RUNS {
            for (_, session, fastest) in &mut sessions {
                let start = Instant::now();
                session.run().await?;
                gpu.wait().await?;
                // The first run warms up.
                *fastest = if run == 0 { f64::INFINITY } else { fastest.min(start.elapsed().as_secs_f64()) };
            }
        }
        let times: Vec<(&str, f64)> = sessions.iter().map(|(name, _, seconds)| (*name, *seconds)).collect();
        log::info!("{}: {times:?} seconds", choice.key);
        measured.chosen.insert(choice.key.to_owned(), fastest(&times).to_owned());
    }
    Ok(measured)
}

/// Picks the first of `times`, unless another saves enough.
fn fastest<'a>(times: &[(&'a str, f64)]) -> &'a str {
    let Some((first, usual)) = times.first().copied() else { return "" };
    let best = times.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1)).filter(|b| b.1 < usual * (1.0 - GAIN));
    best.map_or(first, |b| b.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_gain_changes_nothing() {
        assert_eq!(fastest(&[("a", 1.0), ("b", 0.97), ("c", 2.0)]), "a");
        assert_eq!(fastest(&[("a", 1.0), ("b", 0.9), ("c", 0.8)]), "c");
        assert_eq!(fastest(&[("a", 1.0), ("b", f64::NAN)]), "a");
    }

    #[test]
    fn a_software_driver_compiles_nothing_to_choose() {
        let gpu = pollster::block_on(Gpu::request(&Default::default())).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let first = pollster::block_on(remembered(&gpu, folder.path())).unwrap();
        let is_software = gpu.caps().class == AdapterClass::Cpu;
        assert_eq!(first == Variants::default() && !file(&gpu, folder.path()).exists(), is_software);
    }

    #[test]
    fn the_choice_is_made_once_and_a_damaged_file_is_made_again() {
        let gpu = pollster::block_on(Gpu::request(&Default::default())).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let first = pollster::block_on(measured(&gpu, folder.path())).unwrap();
        assert_eq!(pollster::block_on(remembered(&gpu, folder.path())).unwrap(), first);
        let path = file(&gpu, folder.path());
        let keys: Vec<&str> = choices(gpu.caps()).iter().map(|c| c.key).collect();
        assert!(keys.iter().all(|k| first.get(k).is_some()));
        assert_eq!(read(&path, &gpu), Some(first.clone()));
        for damage in ["{", "{\"chosen\":{\"gemm\":\"none such\",\"x\":\"y\"}}"] {
            std::fs::write(&path, damage).unwrap();
            assert_eq!(read(&path, &gpu), None);
            pollster::block_on(measured(&gpu, folder.path())).unwrap();
            assert!(read(&path, &gpu).is_some());
        }
    }
}
