#!/usr/bin/env python3
"""Writes small random Mamba checkpoints and what transformers says of them (float32, CPU, its sequential eager path).

    python3 -m venv /tmp/goldens
    /tmp/goldens/bin/pip install -r tests/golden/requirements.txt
    /tmp/goldens/bin/python tests/golden/make_goldens.py            # all of them, into tests/golden/checkpoints
    /tmp/goldens/bin/python tests/golden/make_goldens.py odd-dims --out /tmp/x   # one, elsewhere

No GPU, no network once the packages are there. Neither `kernels`, `mamba-ssm`, `causal-conv1d` nor `mambapy` may be installed:
transformers would then compute with them. README.md, beside this file, says what each checkpoint is for.
"""

import copy
import json
import math
import shutil

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import FalconMambaConfig, FalconMambaForCausalLM, MambaConfig, MambaForCausalLM

import common
import reference
from common import GREEDY, HERE, margins


def recipes():
    """name -> how to build it. Keys in `cfg` are transformers'; the rest is explained in `build`."""
    return {
        "odd-dims": dict(
            seed=1, cfg=dict(hidden_size=27, expand=2, state_size=5, conv_kernel=3, time_step_rank=3, num_hidden_layers=3, vocab_size=101),
            steep=True,
        ),
        "bias-conv2-state1": dict(
            seed=2, cfg=dict(hidden_size=24, state_size=1, conv_kernel=2, time_step_rank=2, num_hidden_layers=2, vocab_size=97, use_bias=True),
        ),
        "state64-untied": dict(
            seed=3, cfg=dict(hidden_size=16, state_size=64, conv_kernel=4, time_step_rank=1, num_hidden_layers=2, vocab_size=128, tie_word_embeddings=False),
        ),
        "no-conv-bias-expand3": dict(
            seed=4, cfg=dict(hidden_size=21, expand=3, state_size=6, conv_kernel=4, time_step_rank=7, num_hidden_layers=1, vocab_size=89, use_conv_bias=False),
        ),
        "conv1": dict(
            seed=5, cfg=dict(hidden_size=18, state_size=3, conv_kernel=1, time_step_rank=2, num_hidden_layers=2, vocab_size=67),
        ),
        "eps-residual": dict(
            seed=6, cfg=dict(hidden_size=22, state_size=7, conv_kernel=4, time_step_rank=2, num_hidden_layers=4, vocab_size=61,
                             layer_norm_epsilon=3e-3, residual_in_fp32=False),
            eps_check=("layer_norm_epsilon", 1e-5),
        ),
        "falcon-untied": dict(
            # `expand` contradicts `intermediate_size`, as in falcon-mamba-7b; mixer_rms_eps is left to its default of 1e-6.
            seed=7, falcon=True, cfg=dict(hidden_size=28, expand=16, intermediate_size=58, state_size=16, conv_kernel=4, time_step_rank=3,
                                          num_hidden_layers=2, vocab_size=113, tie_word_embeddings=False),
            x_proj=0.01, drop=["mixer_rms_eps"], eps_check=("mixer_rms_eps", 1e-5),
        ),
        "falcon-tied-eps": dict(
            seed=8, falcon=True, cfg=dict(hidden_size=20, state_size=9, conv_kernel=3, time_step_rank=5, num_hidden_layers=3, vocab_size=83,
                                          use_bias=True, mixer_rms_eps=1e-3),
            x_proj=0.1, eps_check=("mixer_rms_eps", 1e-6),
        ),
        "sharded": dict(
            seed=9, cfg=dict(hidden_size=26, state_size=8, conv_kernel=4, time_step_rank=4, num_hidden_layers=2, vocab_size=103, tie_word_embeddings=False),
            shard="20KB",
        ),
        "f16": dict(
            seed=10, cfg=dict(hidden_size=66, state_size=16, conv_kernel=4, time_step_rank=5, num_hidden_layers=1, vocab_size=201),
            dtype=torch.float16,
        ),
        "bf16": dict(
            seed=11, cfg=dict(hidden_size=34, state_size=17, conv_kernel=4, time_step_rank=3, num_hidden_layers=2, vocab_size=127, tie_word_embeddings=False),
            dtype=torch.bfloat16,
        ),
        "bf16-mixed": dict(
            seed=12, cfg=dict(hidden_size=23, state_size=10, conv_kernel=4, time_step_rank=2, num_hidden_layers=2, vocab_size=79),
            dtype=torch.bfloat16, keep_f32=("A_log", "D", "dt_proj.bias", "norm.weight", "norm_f.weight"),
        ),
        "original-twin": dict(
            # The same weights and expected values as `original`, under Hugging Face names. 101 entries, padded to 104.
            seed=13, fed=101, cfg=dict(hidden_size=25, state_size=16, conv_kernel=4, time_step_rank=2, num_hidden_layers=2, vocab_size=104),
        ),
        "original": dict(
            seed=13, cfg=dict(hidden_size=25, state_size=16, conv_kernel=4, time_step_rank=2, num_hidden_layers=2, vocab_size=104),
            original=dict(vocab_size=101, ssm_cfg={}),
        ),
        "original-untied": dict(
            # Small embeddings: the epsilon of 1e-5, which mamba-ssm's config does not state, shows in the logits.
            seed=14, cfg=dict(hidden_size=19, expand=3, state_size=11, conv_kernel=3, time_step_rank=4, num_hidden_layers=2, vocab_size=96,
                              tie_word_embeddings=False, use_bias=True),
            original=dict(vocab_size=90, ssm_cfg={"layer": "Mamba1", "d_state": 11, "d_conv": 3, "expand": 3, "dt_rank": 4, "bias": True},
                          pad_vocab_size_multiple=16),
            embedding=0.01, eps_check=("layer_norm_epsilon", 1e-6),
        ),
        "decays": dict(
            seed=15, cfg=dict(hidden_size=28, state_size=8, conv_kernel=4, time_step_rank=2, num_hidden_layers=2, vocab_size=107),
            decays=True,
        ),
    }


def random_weights(model, recipe):
    """Fills every parameter so that each matters: no zeros, no ones, logits with a standard deviation near 1.5."""
    rng = np.random.default_rng(recipe["seed"])
    cfg = model.config
    d_model, d_inner, n, rank = cfg.hidden_size, cfg.intermediate_size, cfg.state_size, cfg.time_step_rank
    falcon = recipe.get("falcon", False)
    with torch.no_grad():
        for name, p in sorted(dict(model.named_parameters()).items()):  # tied: the head is not among them
            shape = tuple(p.shape)
            normal = rng.standard_normal(shape)
            uniform = rng.uniform(size=shape)
            v = common.usual_weight(
                name, normal, uniform, d_model, d_inner, cfg.conv_kernel, cfg.tie_word_embeddings, recipe.get("embedding", 0.7)
            )
            if v is not None:
                if name.endswith("out_proj.weight") and recipe.get("steep") and ".layers.0." in name:
                    v[:, :2] *= 0.03  # their deltas of 95 and 20 must not drown the other channels
            elif name.endswith("x_proj.weight"):
                # Rows: dt (rank), B (n), C (n). Falcon-Mamba normalises them, so their scale only decides how much epsilon shows.
                v = normal * 2.0 / math.sqrt(d_inner)
                if falcon:
                    v = v * recipe["x_proj"]
                else:
                    v[rank:] *= 1.2 / n**0.25
            elif name.endswith("dt_proj.weight"):
                v = normal * 0.8 / math.sqrt(rank)
            elif name.endswith("dt_proj.bias"):
                dt = np.exp(rng.uniform(math.log(0.03), math.log(0.8), shape))
                v = dt + np.log(-np.expm1(-dt))  # inverse softplus
                if recipe.get("steep") and ".layers.0." in name:
                    v[0], v[1], v[2] = 95.0, 20.5, -12.0  # softplus: exp overflows float32; its identity branch; a tiny delta
            elif name.endswith("A_log"):
                v = np.log(0.15 + 4.0 * uniform)
                if recipe.get("decays"):  # states that keep nothing (-exp is -infinity in float32 from 89 on) or everything
                    v[:, :5] = [88.0, 90.0, 200.0, 3.4e38, -200.0]
            else:
                raise SystemExit(f"no rule for {name}")
            p.copy_(torch.from_numpy(np.asarray(v, dtype=np.float32)))
    model.tie_weights()


def build(name, recipe, folder):
    """Writes the checkpoint; returns the float32 model loaded back from what was written."""
    config_class, model_class = (FalconMambaConfig, FalconMambaForCausalLM) if recipe.get("falcon") else (MambaConfig, MambaForCausalLM)
    cfg = dict(recipe["cfg"])
    config = config_class(**cfg)
    if "intermediate_size" in cfg:
        assert config.intermediate_size == cfg["intermediate_size"]
    torch.manual_seed(recipe["seed"])  # construction draws numbers too; all are overwritten
    model = model_class(config)
    random_weights(model, recipe)

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    dtype = recipe.get("dtype", torch.float32)
    keep = recipe.get("keep_f32", ())
    model.to(dtype).save_pretrained(folder, max_shard_size=recipe.get("shard", "5GB"))
    (folder / "generation_config.json").unlink(missing_ok=True)
    weights = folder / "model.safetensors"
    if keep:  # some tensors stay float32, as mamba-ssm's own mixed-precision training leaves them
        full = model_class(config)
        random_weights(full, recipe)
        full = full.state_dict()
        tensors = {k: full[k].clone() if k.endswith(keep) else v for k, v in load_file(weights).items()}
        save_file(tensors, weights, metadata={"format": "pt"})
    raw = json.loads((folder / "config.json").read_text())
    for key in recipe.get("drop", []):
        del raw[key]
    (folder / "config.json").write_text(json.dumps(raw, indent=2, sort_keys=True) + "\n")

    loaded = model_class.from_pretrained(folder, dtype=torch.float32).eval()
    if dtype == torch.float32:
        source = model.state_dict()
        assert all(torch.equal(v, source[k]) for k, v in loaded.state_dict().items())
    if "shard" in recipe:
        assert len(list(folder.glob("model-*.safetensors"))) >= 3 and not weights.exists()
    if "original" in recipe:
        to_original(recipe, config, folder)
    return loaded


def to_original(recipe, config, folder):
    """Rewrites a Hugging Face folder with mamba-ssm's names and configuration."""
    weights = folder / "model.safetensors"
    tensors = {k.replace("backbone.embeddings.", "backbone.embedding."): v for k, v in load_file(weights).items()}
    original = recipe["original"]
    raw = {
        "d_model": config.hidden_size,
        "n_layer": config.num_hidden_layers,
        "vocab_size": original["vocab_size"],
        "ssm_cfg": original["ssm_cfg"],
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": original.get("pad_vocab_size_multiple", 8),
        "tie_embeddings": config.tie_word_embeddings,
    }
    multiple = raw["pad_vocab_size_multiple"]
    assert -(-raw["vocab_size"] // multiple) * multiple == config.vocab_size
    (folder / "config.json").write_text(json.dumps(raw, indent=2) + "\n")
    save_file(tensors, weights)


@torch.no_grad()
def run(model, tokens):
    """Logits (L, V), final states in our layout, and the greedy continuation with its smallest margin."""
    out, cache, conv, ssm = common.prefill(model, tokens)
    logits, last = out[0].numpy(), out[0, -1]
    greedy, margin = [], math.inf
    for _ in range(GREEDY):
        margin = min(margin, float(margins(last.numpy()[None])[0]))
        greedy.append(int(last.argmax()))
        last = model(torch.tensor([greedy[-1:]]), cache_params=cache, use_cache=True).logits[0, -1]
    return logits, conv, ssm, greedy, margin


def golden(name, recipe, out):
    folder = out / name
    model = build(name, recipe, folder)
    cfg = model.config
    weights = {k: v.double().numpy() for k, v in model.state_dict().items()}
    # mamba-ssm pads the embedding: the padded rows are scored like all others, but never fed.
    vocab = recipe.get("fed") or recipe.get("original", {}).get("vocab_size", cfg.vocab_size)
    sequences, found = common.sequences(
        name, recipe["seed"], vocab, lambda tokens: run(model, tokens), lambda tokens: reference.forward(weights, cfg, tokens)
    )
    for s in sequences:
        # transformers' step is its prefill unrolled, or the greedy tokens would not follow from the whole text.
        with torch.no_grad():
            whole = model(torch.tensor([s["tokens"] + s["greedy"]]), use_cache=False).logits[0, len(s["tokens"]) - 1 : -1]
        assert whole.argmax(-1).tolist() == s["greedy"], name
    effects = sensitivity(name, recipe, weights, cfg, sequences)
    config = {
        "d_model": cfg.hidden_size, "n_layer": cfg.num_hidden_layers, "vocab_size": cfg.vocab_size, "d_inner": cfg.intermediate_size,
        "d_state": cfg.state_size, "d_conv": cfg.conv_kernel, "dt_rank": cfg.time_step_rank,
    }
    return common.write_expected(name, folder, common.transformers_source(), config, sequences, found, effects)


def sensitivity(name, recipe, weights, cfg, sequences):
    """Largest change of any written logit of the 37 tokens, for each wrong treatment of a tensor."""
    tokens = sequences[0]["tokens"]

    def others():
        for what, w in reference.variants(weights, cfg):
            yield what, reference.forward(w, cfg, tokens)[0]
        yield "zero-order hold for B", reference.forward(weights, cfg, tokens, zoh=True)[0]
        if "eps_check" in recipe:
            key, value = recipe["eps_check"]
            other = copy.deepcopy(cfg)
            setattr(other, key, value)
            yield f"{key} {value}", reference.forward(weights, other, tokens)[0]

    return common.largest_effects(name, reference.forward(weights, cfg, tokens)[0], others())


if __name__ == "__main__":
    common.main(__doc__, recipes(), golden, HERE / "checkpoints")
