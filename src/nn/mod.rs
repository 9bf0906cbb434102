//! Layers: named parameters, linear, convolution, norms, attention, LoRA.
