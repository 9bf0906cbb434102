//! Learning-rate schedules, as diffusers' `get_scheduler` gives them.

/// The factor of the learning rate at update `step` (from 0) of `total`: rising from zero over `warmup` updates, then
/// constant or falling along half a cosine.
pub fn lr_factor(step: usize, total: usize, warmup: usize, cosine: bool) -> f64 {
    if step < warmup {
        return step as f64 / warmup.max(1) as f64;
    }
    if !cosine {
        return 1.0;
    }
    let progress = (step - warmup) as f64 / total.saturating_sub(warmup).max(1) as f64;
    // Past the end the cosine would rise again.
    0.5 * (1.0 + (std::f64::consts::PI * progress.min(1.0)).cos())
}

#[cfg(test)]
mod tests {
    use super::lr_factor;

    #[test]
    fn follows_the_recorded_run() {
        let expected = [0.0, 1.0 / 3.0, 2.0 / 3.0, 1.0, 0.75, 0.25];
        for (step, e) in expected.into_iter().enumerate() {
            assert!((lr_factor(step, 6, 3, true) - e).abs() < 1e-12, "step {step}");
        }
        assert_eq!(lr_factor(5, 6, 0, false), 1.0);
        assert_eq!([lr_factor(0, 0, 0, true), lr_factor(9, 6, 3, true), lr_factor(8, 3, 5, true)], [1.0, 0.0, 0.0]);
        assert!((lr_factor(4, 6, 3, true) - 0.5).abs() > 0.1);
    }
}
