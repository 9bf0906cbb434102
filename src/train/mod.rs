//! DreamBooth: data, optimizer, checkpoints, metrics.
