"""Loads LoRA files into diffusers and PEFT and compares what the UNet then says with recorded values.

load_lora.py MODEL VALUES FILE...: exit code 0 if all agree, 1 if one does not, 3 where a library is missing.
"""
import sys
from pathlib import Path

try:
    import torch
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel
    from peft import PeftModel
    from safetensors.torch import load_file
except ImportError as missing:
    print(missing)
    sys.exit(3)


@torch.no_grad()
def says(unet, values):
    context = values["unet.context"]
    return unet(values["unet.sample"], values["unet.timestep"], encoder_hidden_states=context).sample


def main():
    model, values, files = sys.argv[1], load_file(sys.argv[2]), [Path(f) for f in sys.argv[3:]]
    expected, plain = values["lora.unet.out"], values["unet.out"]
    # What is compared must not hold of a file that was silently ignored.
    assert (expected - plain).abs().max() > 1e-3 * expected.abs().max()
    failed = False
    for file in files:
        if file.is_dir():
            unet = PeftModel.from_pretrained(UNet2DConditionModel.from_pretrained(f"{model}/unet"), file / "unet")
        else:
            pipe = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
            pipe.load_lora_weights(str(file.parent), weight_name=file.name)
            unet = pipe.unet
        off = ((says(unet, values) - expected).abs().max() / expected.abs().max()).item()
        failed |= not off < 1e-4
        print(f"{file.name}: off by {off:.1e}", flush=True)
    sys.exit(failed)


main()
