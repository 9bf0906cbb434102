"""Loads LoRA files into diffusers and PEFT and compares what UNet and text encoder then say with recorded values.

load_lora.py MODEL VALUES NAME FILE...: NAME.unet.out and, where there is one, NAME.text.hidden of VALUES are what every
FILE must give. Exit code 0 if all agree, 1 if one does not.
"""
import sys
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import PeftModel
from safetensors.torch import load_file


def loaded(model, file):
    """UNet and text encoder of `model` with the LoRA at `file`; PEFT reads a folder, diffusers a file."""
    if not file.is_dir():
        pipe = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
        pipe.load_lora_weights(str(file.parent), weight_name=file.name)
        return pipe.unet, pipe.text_encoder
    # Of a folder the UNet alone: the text encoder's modules have one name in transformers 4 and another in 5.
    return PeftModel.from_pretrained(UNet2DConditionModel.from_pretrained(f"{model}/unet"), file / "unet"), None


@torch.no_grad()
def says(parts, values):
    unet, text = parts
    out = unet(values["unet.sample"], values["unet.timestep"], encoder_hidden_states=values["unet.context"]).sample
    return {"unet.out": out} | ({"text.hidden": text(input_ids=values["text.input_ids"])[0]} if text else {})


def off(a, b):
    """Largest difference, relative to the largest value of `b`."""
    return ((a - b).abs().max() / b.abs().max()).item()


def main():
    model, values, name, files = sys.argv[1], load_file(sys.argv[2]), sys.argv[3], [Path(f) for f in sys.argv[4:]]
    expected = {part: values[f"{name}.{part}"] for part in ("unet.out", "text.hidden") if f"{name}.{part}" in values}
    # What is compared must not hold of a file that was silently ignored.
    assert expected and all(off(values[part], value) > 1e-3 for part, value in expected.items())
    failed = False
    for file in files:
        got = says(loaded(model, file), values)
        for part, value in ((part, expected[part]) for part in expected if part in got):
            error = off(got[part], value)
            failed |= not error < 1e-4
            print(f"{file.name}, {part}: off by {error:.1e}", flush=True)
    sys.exit(failed)


main()
