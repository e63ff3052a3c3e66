#!/usr/bin/env python3
"""Writes LoRA adapters for the golden checkpoints and what PEFT says of base and adapter together (float32, CPU).

    /tmp/goldens/bin/pip install -r tests/golden/requirements.txt
    /tmp/goldens/bin/python tests/golden/make_lora.py

Each folder of tests/golden/lora holds an adapter as PEFT saves it and expected.json: the base's name, tokens, and the last token's
logits. They are those of the unmerged model, except where transformers' forward pass goes round PEFT's layers: it reads
`dt_proj.weight` and PEFT refuses `out_proj` for that reason, so there they are those of PEFT's merged model.
"""

import json
import shutil
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

HERE = Path(__file__).resolve().parent
EFFECT = 0.5  # on some logit, at least, of each adapter

RECIPES = {
    "projections": dict(base="bias-conv2-state1", merged=True, r=4, lora_alpha=8, target_modules=["in_proj", "x_proj", "dt_proj", "out_proj"]),
    "rslora-patterns": dict(
        base="odd-dims", r=3, lora_alpha=5, use_rslora=True, target_modules=["in_proj", "x_proj"],
        alpha_pattern={"layers.1.mixer.in_proj": 2, r"backbone\.layers\.[02]\.mixer\.x_proj": 7}, rank_pattern={"x_proj": 6},
    ),
    "embeddings-tied": dict(base="conv1", r=2, lora_alpha=3, target_modules=["embeddings", "in_proj"]),
    "head-untied": dict(base="state64-untied", r=2, lora_alpha=4, target_modules=["lm_head", "x_proj", "embeddings"], modules_to_save=["norm_f"], bias="all"),
    "saved-head-tied": dict(base="original-twin", r=2, lora_alpha=4, target_modules=["in_proj"], modules_to_save=["lm_head"]),
    "f16": dict(base="f16", merged=True, half=True, file_dtype=torch.bfloat16, r=3, lora_alpha=6, target_modules=["in_proj", "x_proj", "out_proj"]),
    "bf16": dict(base="bf16", file_dtype=torch.float16, r=4, lora_alpha=4, target_modules=["in_proj", "x_proj"]),
}


@torch.no_grad()
def make(seed, name, recipe, folder):
    recipe = dict(recipe)
    base, merged, half = (recipe.pop(key, None) for key in ("base", "merged", "half"))
    dtype = recipe.pop("file_dtype", torch.float32)
    tokens = json.loads((HERE / "checkpoints" / base / "expected.json").read_text())["sequences"][0]["tokens"]
    model = AutoModelForCausalLM.from_pretrained(HERE / "checkpoints" / base, dtype=torch.float32).eval()
    plain = model(torch.tensor([tokens])).logits[0, -1]

    kind, model.config.model_type = model.config.model_type, "golden"  # PEFT refuses out_proj by it
    peft = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **recipe)).eval()
    model.config.model_type = kind
    torch.manual_seed(seed)
    for _, p in sorted(peft.named_parameters()):
        if p.requires_grad:
            p.add_(torch.randn_like(p) * (0.15 if "lora" in _ else 0.2)).copy_(p.to(dtype).float())

    shutil.rmtree(folder, ignore_errors=True)
    peft.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    weights = folder / "adapter_model.safetensors"
    save_file({k: v.to(dtype) for k, v in load_file(weights).items()}, weights, metadata={"format": "pt"})
    config = folder / "adapter_config.json"
    raw = json.loads(config.read_text())
    raw["base_model_name_or_path"] = base
    raw["target_modules"] = sorted(raw["target_modules"])
    config.write_text(json.dumps(raw, indent=1, sort_keys=True) + "\n")

    if merged:
        peft = peft.merge_and_unload()
        if half:  # the base is float16: what is merged is rounded to it again
            for p in peft.parameters():
                p.copy_(p.half().float())
    logits = peft(torch.tensor([tokens])).logits[0, -1]
    effect = float((logits - plain).abs().max())
    assert effect > EFFECT, f"{name}: the adapter moves the logits by {effect} only"
    expected = {"base": base, "tokens": tokens, "last_logits": [float(f"{x:.7g}") for x in logits.tolist()]}
    (folder / "expected.json").write_text(json.dumps(expected) + "\n")
    print(f"{name}: moves the logits by {effect:.2f}, {weights.stat().st_size} bytes")


if __name__ == "__main__":
    for seed, (name, recipe) in enumerate(RECIPES.items()):
        make(seed, name, recipe, HERE / "lora" / name)
