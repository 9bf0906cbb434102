#!/usr/bin/env python3
"""Vision models of published sizes with random weights against PyTorch and transformers.

    cargo build --release
    pip install torch transformers safetensors
    python3 tests/full_size/vision.py DIR [--models dino-vits16 dinov2-small clip-vit-base-patch32 …] [--images 2]

Writes each model to DIR/NAME, once. Takes about a minute each on two cores, clip-vit-large-patch14 several. Exit code 1 if a value is
off by more than 1e-4 of the largest one or is not finite.
"""
import argparse, os, subprocess, sys, tempfile, time
import torch
from safetensors.torch import load_file, save_file
from transformers import (BitImageProcessor, CLIPConfig, CLIPImageProcessor, CLIPModel, Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig,
                          Dinov2WithRegistersModel, ViTConfig, ViTImageProcessor, ViTModel)

TOLERANCE = 1e-4
SMALL = dict(hidden_size=384, num_hidden_layers=12, num_attention_heads=6)
LARGE = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=224, patch_size=14, projection_dim=768)
TEXT = dict(hidden_size=768, intermediate_size=3072, num_attention_heads=12, projection_dim=768)


def clip(vision, text, projection):
    model = CLIPModel(CLIPConfig(vision_config=vision, text_config=dict(text, eos_token_id=2), projection_dim=projection))
    return model, CLIPImageProcessor()


# Model, image processor, pixels of a side.
MODELS = {
    "dino-vits16": lambda: (ViTModel(ViTConfig(**SMALL, intermediate_size=1536), add_pooling_layer=False), ViTImageProcessor(), 224),
    "dino-vitb16": lambda: (ViTModel(ViTConfig(), add_pooling_layer=False), ViTImageProcessor(), 224),
    "dinov2-small": lambda: (Dinov2Model(Dinov2Config(**SMALL, image_size=518)), BitImageProcessor(size={"shortest_edge": 256}), 224),
    "dinov2-with-registers-small": lambda: (Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**SMALL, image_size=518, patch_size=14)),
                                            BitImageProcessor(size={"shortest_edge": 256}), 224),
    "clip-vit-base-patch32": lambda: (*clip({}, {}, 512), 224),
    "clip-vit-large-patch14": lambda: (*clip(LARGE, TEXT, 768), 224),
}


def off(got, expected):
    """Largest difference, relative to the largest expected value; infinite where a value is not finite."""
    if got.shape != expected.shape or not torch.isfinite(got).all():
        return float("inf")
    return ((got.double() - expected.double()).abs().max() / expected.double().abs().max()).item()


assert off(torch.tensor([1.0, 2.1]), torch.tensor([1.0, 2.0])) > 0.04
assert off(torch.tensor([float("nan")]), torch.tensor([1.0])) == float("inf")


@torch.no_grad()
def made(name, folder):
    """The model with random weights, as it lies in `folder` afterwards; norms and biases are not ones and zeros."""
    torch.manual_seed(0)
    model, processor, side = MODELS[name]()
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * (0.1 if parameter.ndim == 1 else 0.02))
    if not os.path.exists(f"{folder}/preprocessor_config.json"):
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return model.eval(), side


@torch.no_grad()
def main():
    args = argparse.ArgumentParser()
    args.add_argument("folder")
    args.add_argument("--portray", default=os.path.join(os.environ.get("CARGO_TARGET_DIR", "target"), "release/portray"))
    args.add_argument("--models", nargs="+", default=["dino-vits16", "dinov2-small", "clip-vit-base-patch32"], choices=MODELS)
    args.add_argument("--images", type=int, default=2)
    args = args.parse_args()
    wrong = False
    for name in args.models:
        model, side = made(name, f"{args.folder}/{name}")
        g = torch.Generator().manual_seed(1)
        inputs = {"pixels": torch.randn(args.images, 3, side, side, generator=g)}
        if name.startswith("clip"):
            inputs["input_ids"] = torch.randint(0, 49406, (args.images, 77), generator=g)
            inputs["input_ids"][:, 20:] = 49407
        start = time.time()
        if name.startswith("clip"):
            expected = {"images": model.get_image_features(pixel_values=inputs["pixels"]).pooler_output,
                        "texts": model.get_text_features(input_ids=inputs["input_ids"]).pooler_output}
        else:
            expected = {"images": model(pixel_values=inputs["pixels"]).last_hidden_state[:, 0]}
        torch_seconds = time.time() - start
        with tempfile.TemporaryDirectory() as scratch:
            files = [f"{scratch}/{name}.safetensors" for name in ("in", "out")]
            save_file(inputs, files[0])
            start = time.time()
            subprocess.run([args.portray, "embed", "--vision", f"{args.folder}/{name}", "--in", files[0], "--out", files[1]], check=True, stdout=subprocess.DEVNULL)
            seconds, got = time.time() - start, load_file(files[1])
        for key, value in expected.items():
            far = off(got[key], value)
            wrong |= not far < TOLERANCE
            print(f"{name} {key} {list(value.shape)}: off by {far:.1e}; {seconds:.1f} s with loading, PyTorch {torch_seconds:.1f} s", flush=True)
    sys.exit(wrong)


main()
