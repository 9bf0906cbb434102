//! Noise schedules and samplers, in f64, without a GPU.
