#!/usr/bin/env python3
"""PyTorch's time for a UNet step and a LoRA step, to hold beside `portray bench --model MODEL --dtype f16`.

    cargo xtask make-model sd15 /tmp/sd15
    pip install torch diffusers transformers peft
    python3 tests/full_size/pace.py /tmp/sd15 [--side 512] [--dtypes float32 float16]

As in `portray bench`, two samples are denoised, and a LoRA of rank 8 on the attention layers is trained on two images. Medians of
five after two that are not counted. float32 is without TF32; a LoRA step with float16 weights is under autocast, its adapters
in float32. On a machine with CUDA the model is there, with its largest memory; elsewhere on the processor.
"""
import argparse, os, time
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def wait():
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def median_ms(work):
    times = []
    for _ in range(7):
        wait()
        began = time.perf_counter()
        work()
        wait()
        times.append((time.perf_counter() - began) * 1e3)
    return sorted(times[2:])[2]


def report(what, work):
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    ms = median_ms(work)
    peak = f", {torch.cuda.max_memory_allocated() / 1e9:.2f} GB at most" if DEVICE == "cuda" else ""
    print(f"{what}: {ms:.1f} ms{peak}", flush=True)


def inputs(unet, side, dtype):
    """Latents, timesteps, prompts' states and, for SDXL, what it adds to the timestep."""
    config, random = unet.config, lambda *shape: torch.randn(*shape, device=DEVICE, dtype=dtype)
    added = None
    if config.addition_embed_type == "text_time":
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        sizes = torch.tensor([[side, side, 0, 0, side, side]] * 2, device=DEVICE, dtype=dtype)
        added = {"text_embeds": random(2, pooled), "time_ids": sizes}
    width = config.cross_attention_dim
    width = width if isinstance(width, int) else width[0]
    latents, states = random(2, config.in_channels, side // 8, side // 8), random(2, 77, width)
    return latents, torch.tensor([500, 500], device=DEVICE), states, added


def measure(model, side, dtype):
    began = time.perf_counter()
    unet = UNet2DConditionModel.from_pretrained(f"{model}/unet", torch_dtype=dtype).to(DEVICE).eval()
    wait()
    print(f"{dtype}: loaded in {time.perf_counter() - began:.1f} s", flush=True)
    latents, timesteps, states, added = inputs(unet, side, dtype)
    forward = lambda: unet(latents, timesteps, encoder_hidden_states=states, added_cond_kwargs=added).sample
    with torch.inference_mode():
        report(f"{dtype}: UNet step", forward)

    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=8, lora_alpha=8, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    adapters = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    for parameter in adapters:
        parameter.data = parameter.data.float()
    optimizer = torch.optim.AdamW(adapters, lr=1e-4)

    def train():
        with torch.autocast(DEVICE, torch.float16, enabled=dtype == torch.float16):
            loss = (forward().float() ** 2).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(adapters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    report(f"{dtype}: LoRA step", train)


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", help="a diffusers folder")
parser.add_argument("--side", type=int, default=512, help="pixels")
parser.add_argument("--dtypes", nargs="+", default=["float32", "float16"], choices=["float32", "float16", "bfloat16"])
options = parser.parse_args()
if not os.path.isfile(f"{options.model}/unet/config.json"):
    parser.error(f"{options.model} has no unet/config.json: give a diffusers folder")
if options.side < 8 or options.side % 8:
    parser.error(f"--side {options.side}: a multiple of 8")
print(f"{DEVICE}, torch {torch.__version__}, {options.side} x {options.side} pixels", flush=True)
for name in options.dtypes:
    measure(options.model, options.side, getattr(torch, name))
