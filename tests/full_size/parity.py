#!/usr/bin/env python3
"""A full-size model with random weights against PyTorch and diffusers, part by part.

    cargo xtask make-model sd2-base /tmp/sd2
    cargo build --release
    pip install torch diffusers transformers
    python3 tests/full_size/parity.py /tmp/sd2 [--dtype f32] [--side 512] [--parts text unet vae-encode vae-decode]

Models of the SDXL family (make-model sdxl, ssd-1b, vega) are compared at 256 x 256: `--side 256`.

Takes about a quarter of an hour on two cores, too long for the tests. Exit code 1 if a value is off by more than the
tolerance (1e-4 of the largest value in f32, 1e-2 with smaller weights) or is not finite.
"""
import argparse, os, subprocess, sys, tempfile, time
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

TOLERANCE = {"f32": 1e-4, "f16": 1e-2, "q8": 5e-2, "q4": 3e-1}


def off(got, expected):
    """Largest difference, relative to the largest expected value; infinite where a value is not finite."""
    if got.shape != expected.shape or not torch.isfinite(got).all():
        return float("inf")
    return ((got.double() - expected.double()).abs().max() / expected.double().abs().max()).item()


assert off(torch.tensor([1.0, 2.1]), torch.tensor([1.0, 2.0])) > 0.04
assert off(torch.tensor([float("nan")]), torch.tensor([1.0])) == float("inf")


@torch.no_grad()
def reference(part, model, inputs):
    load = lambda cls, folder: cls.from_pretrained(f"{model}/{folder}", torch_dtype=torch.float32).eval()
    if part == "text" and "input_ids_2" not in inputs:
        return {"hidden": load(CLIPTextModel, "text_encoder")(inputs["input_ids"])[0]}
    if part == "text":
        # SDXL: the input of each encoder's last layer side by side; the second's projection is the pooled prompt.
        one = load(CLIPTextModel, "text_encoder")(inputs["input_ids"], output_hidden_states=True)
        two = load(CLIPTextModelWithProjection, "text_encoder_2")(inputs["input_ids_2"], output_hidden_states=True)
        return {"hidden": torch.cat([one.hidden_states[-2], two.hidden_states[-2]], dim=-1), "pooled": two.text_embeds}
    if part == "unet":
        unet = load(UNet2DConditionModel, "unet")
        added = {"text_embeds": inputs["pooled"], "time_ids": inputs["time_ids"]} if "pooled" in inputs else None
        return {"out": unet(inputs["sample"], inputs["timestep"], encoder_hidden_states=inputs["context"], added_cond_kwargs=added).sample}
    vae = load(AutoencoderKL, "vae")
    if part == "vae-encode":
        posterior = vae.encode(inputs["image"]).latent_dist
        return {"mean": posterior.mean, "logvar": posterior.logvar}
    return {"image": vae.decode(inputs["latent"]).sample}


def inputs_of(part, config, side):
    """Random inputs of a part; `config` is the UNet's."""
    g = torch.Generator().manual_seed(0)
    normal = lambda *shape: torch.randn(*shape, generator=g)
    width, xl = config["cross_attention_dim"], config.get("addition_embed_type") == "text_time"
    inputs = {
        "text": {"input_ids": torch.randint(0, 49407, (2, 77), generator=g)},
        "unet": {"sample": normal(2, 4, side // 8, side // 8), "timestep": torch.tensor([999, 500]), "context": normal(2, 77, width)},
        "vae-encode": {"image": normal(1, 3, side, side).clamp(-1, 1)},
        "vae-decode": {"latent": normal(1, 4, side // 8, side // 8)},
    }[part]
    if xl and part == "text":
        # Each prompt ends at its highest id, of which transformers takes the first.
        inputs["input_ids"][:, 40:], inputs["input_ids_2"] = 49407, inputs["input_ids"].clone()
        inputs["input_ids_2"][:, 40], inputs["input_ids_2"][:, 41:] = 49407, 0
    if xl and part == "unet":
        inputs["pooled"] = normal(2, config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"])
        inputs["time_ids"] = torch.tensor([[1024.0, 1024, 0, 0, 1024, 1024], [701, 1333, 16, 240, 1024, 768]])
    return inputs


def main():
    args = argparse.ArgumentParser()
    args.add_argument("model")
    args.add_argument("--portray", default=os.path.join(os.environ.get("CARGO_TARGET_DIR", "target"), "release/portray"))
    args.add_argument("--dtype", default="f32", choices=TOLERANCE)
    args.add_argument("--side", type=int, default=512)
    args.add_argument("--parts", nargs="+", default=["text", "unet", "vae-encode", "vae-decode"])
    args = args.parse_args()
    failed = False
    for part in args.parts:
        inputs = inputs_of(part, UNet2DConditionModel.load_config(f"{args.model}/unet"), args.side)
        started = time.time()
        expected = reference(part, args.model, inputs)
        torch_seconds = time.time() - started
        with tempfile.TemporaryDirectory() as folder:
            save_file({k: v.contiguous() for k, v in inputs.items()}, f"{folder}/in.safetensors")
            started = time.time()
            subprocess.run([args.portray, "forward", part, "--model", args.model, "--dtype", args.dtype,
                            "--in", f"{folder}/in.safetensors", "--out", f"{folder}/out.safetensors", "--quiet"], check=True)
            seconds = time.time() - started
            got = load_file(f"{folder}/out.safetensors")
        for name, value in expected.items():
            worst = off(got[name], value)
            ok = worst <= TOLERANCE[args.dtype]
            failed |= not ok
            print(f"{'ok  ' if ok else 'FAIL'} {part} {name} {tuple(value.shape)} {args.dtype}: off by {worst:.1e} of the largest"
                  f" {value.abs().max():.3g} (portray {seconds:.0f} s, torch {torch_seconds:.0f} s, loading included)", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
