//! Random streams: torch CPU, CUDA philox, and counter-based draws.
