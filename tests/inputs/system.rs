//! Paths, signals and streams of any system.
