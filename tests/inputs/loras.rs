//! LoRA files of other tools, and what a training begins with.
