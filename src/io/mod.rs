//! Files: safetensors, diffusers folders, LoRA layouts, tokenizer, pictures.
