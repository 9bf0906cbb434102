"""Loads LoRA files into diffusers and PEFT and compares what UNet and text encoders then give with recorded values.

load_lora.py MODEL VALUES (NAME= FILE...)...: NAME.unet.out and, where VALUES has the text encoders' too, NAME.text.hidden and
NAME.text.pooled are what every FILE behind it must give. Exit code 0 if all agree, 1 if one does not.
"""
import json
import sys
from pathlib import Path

import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from peft import PeftModel
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection
from transformers.utils import logging

PARTS = ("unet.out", "text.hidden", "text.pooled")


def loaded(model, file):
    """UNet and text encoders of `model` with the LoRA at `file`; PEFT reads a folder, diffusers a file."""
    if not file.is_dir():
        # Without a data type transformers takes that of the file, which may be f16.
        pipe = DiffusionPipeline.from_pretrained(model, dtype=torch.float32, **({} if is_xl(model) else {"safety_checker": None}))
        pipe.load_lora_weights(str(file.parent), weight_name=file.name)
        return pipe.unet, [getattr(pipe, part) for part in ("text_encoder", "text_encoder_2") if hasattr(pipe, part)]
    of_part = lambda kind, part: PeftModel.from_pretrained(kind.from_pretrained(f"{model}/{part}", dtype=torch.float32), file / part)
    encoders = (("text_encoder", CLIPTextModel), ("text_encoder_2", CLIPTextModelWithProjection))
    return of_part(UNet2DConditionModel, "unet"), [of_part(kind, part) for part, kind in encoders if (file / part).exists()]


def is_xl(model):
    return "XL" in json.loads((Path(model) / "model_index.json").read_text())["_class_name"]


def encoded(encoders, values, prompts):
    """What the UNet reads of the first `prompts` prompts, and in SDXL the pooled state."""
    ids = values["text.input_ids"][:prompts]
    if len(encoders) == 1:
        return {"text.hidden": encoders[0](input_ids=ids)[0]}
    one = encoders[0](ids, output_hidden_states=True)
    two = encoders[1](values["text.input_ids_2"][:prompts], output_hidden_states=True)
    return {"text.hidden": torch.cat([one.hidden_states[-2], two.hidden_states[-2]], dim=-1), "text.pooled": two.text_embeds}


def given(parts, values, prompts):
    """Outputs of the parts for the inputs in `values`."""
    unet, encoders = parts
    added = {to: values[f"unet.{name}"] for to, name in (("text_embeds", "pooled"), ("time_ids", "time_ids")) if f"unet.{name}" in values}
    out = unet(values["unet.sample"], values["unet.timestep"], encoder_hidden_states=values["unet.context"], added_cond_kwargs=added or None).sample
    return {"unet.out": out} | (encoded(encoders, values, prompts) if encoders and prompts else {})


def off(a, b):
    """Largest difference, relative to the largest value of `b`."""
    return ((a - b).abs().max() / b.abs().max()).item()


def failed(model, values, name, files):
    """Whether one of `files` gives anything else than the values called `name`."""
    expected = {part: values[f"{name}.{part}"] for part in PARTS if f"{name}.{part}" in values and part in values}
    # What is compared must not hold of a file that was silently ignored.
    assert expected and files and all(off(values[part][:len(value)], value) > 1e-3 for part, value in expected.items())
    wrong = False
    for file in files:
        got = given(loaded(model, Path(file)), values, len(expected.get("text.hidden", ())))
        for part in (part for part in expected if part in got):
            error = off(got[part], expected[part])
            wrong |= not error < 1e-4
            print(f"{Path(file).name}, {part}: off by {error:.1e}", flush=True)
    return wrong


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    model, values, groups = sys.argv[1], load_file(sys.argv[2]), {}
    for word in sys.argv[3:]:
        if word.endswith("="):
            files = groups.setdefault(word[:-1], [])
        else:
            files.append(word)
    sys.exit(any([failed(model, values, name, files) for name, files in groups.items()]))


main()
