#!/usr/bin/env python3
"""Writes small random Mamba-2 checkpoints and what transformers, or reference_mamba2.py, says of them.

    /tmp/goldens/bin/python tests/golden/make_mamba2.py             # all of them, into tests/golden/mamba2
    /tmp/goldens/bin/python tests/golden/make_mamba2.py dt-limit --out /tmp/x    # one, elsewhere

See make_goldens.py for the environment, README.md for what each checkpoint is for.
"""

import copy
import json
import math
import shutil

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import Mamba2Config, Mamba2ForCausalLM

import common
import reference_mamba2 as reference
from common import GREEDY, HERE, MIN_EFFECT, MIN_MARGIN, margins

INFINITE = (0.0, math.inf)
# What the published Codestral's config.json has besides. `norm_before_gate` is not what the model does: transformers
# has the gate first always, and mamba-ssm, by which it was trained, has that as its default.
CODESTRAL = {
    "intermediate_size": 64, "norm_before_gate": True, "rms_norm": True, "time_step_init_scheme": "random",
    "time_step_scale": 1.0, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "torch_dtype": "bfloat16",
    "transformers_version": "4.44.0.dev0",
}


def hf(d_model, heads, groups, state, conv, layers, vocab, **more):
    """A configuration of transformers; `heads` is (number, width of one)."""
    return dict(hidden_size=d_model, num_heads=heads[0], head_dim=heads[1], n_groups=groups, state_size=state,
                conv_kernel=conv, num_hidden_layers=layers, vocab_size=vocab, **{"chunk_size": 256, **more})


def recipes():
    """name -> how to build it. `cfg` is transformers' configuration, `ssm` mamba-ssm's `ssm_cfg`; the rest is explained
    in `build` and `random_weights`."""
    tied = dict(tie_word_embeddings=True)
    floor = hf(14, (4, 7), 1, 4, 4, 1, 53, time_step_limit=(0.3, math.inf), chunk_size=64, **tied)
    default = hf(32, (1, 64), 1, 128, 4, 1, 112, **tied)
    return {
        "odd-dims": dict(seed=101, cfg=hf(27, (6, 9), 2, 5, 3, 3, 101, chunk_size=16, **tied), steep=True),
        "bias-conv2-state1": dict(
            seed=122, cfg=hf(24, (4, 12), 1, 1, 2, 2, 97, use_bias=True, chunk_size=8, **tied), infinity="object",
        ),
        "state128-untied": dict(seed=103, cfg=hf(16, (4, 8), 1, 128, 4, 1, 128)),
        "groups5-no-conv-bias": dict(
            seed=104, cfg=hf(20, (10, 6), 5, 7, 4, 2, 89, expand=3, use_conv_bias=False, chunk_size=32, **tied),
        ),
        "one-head-eps": dict(
            seed=105, eps_check=1e-5,
            cfg=hf(22, (1, 44), 1, 6, 4, 3, 61, layer_norm_epsilon=3e-2, residual_in_fp32=False, chunk_size=7, **tied),
        ),
        "dt-limit": dict(seed=106, cfg=hf(26, (4, 13), 2, 8, 4, 2, 71, time_step_limit=(0.1, 0.6), chunk_size=12)),
        "dt-floor": dict(seed=107, cfg=floor),
        "dt-floor-object": dict(seed=107, cfg=floor, infinity="object"),
        "codestral": dict(seed=108, cfg=hf(32, (16, 4), 8, 8, 4, 2, 120), dtype=torch.bfloat16, extra=CODESTRAL),
        "f16": dict(seed=109, cfg=hf(66, (4, 33), 1, 16, 4, 1, 201, **tied), dtype=torch.float16),
        "bf16-mixed": dict(
            seed=110, cfg=hf(23, (2, 23), 2, 10, 3, 2, 79, chunk_size=10, **tied),
            dtype=torch.bfloat16, keep_f32=("A_log", "D", "dt_bias"), infinity="object",
        ),
        "sharded": dict(seed=111, cfg=hf(26, (13, 4), 1, 8, 4, 2, 103), shard="20KB", infinity="absent"),
        "decays": dict(seed=112, cfg=hf(20, (8, 5), 4, 6, 4, 2, 73, chunk_size=16, **tied), decays=True),
        # The same weights and expected values as `original`, under Hugging Face names. 101 entries, padded to 112.
        "original-twin": dict(seed=113, fed=101, cfg=default),
        # Every dimension is mamba-ssm's default, as in state-spaces/mamba2-130m.
        "original": dict(seed=113, cfg=default, original=dict(vocab_size=101, ssm_cfg={"layer": "Mamba2"})),
        # Small embeddings: the epsilon of 1e-5, which mamba-ssm's config does not state, shows in the logits.
        "original-untied": dict(
            seed=114, cfg=hf(18, (9, 6), 3, 11, 3, 2, 96, expand=3, time_step_limit=(0.1, math.inf), use_bias=True),
            original=dict(vocab_size=90, ssm_cfg={
                "layer": "Mamba2", "d_state": 11, "d_conv": 3, "expand": 3, "headdim": 6, "ngroups": 3, "bias": True,
                "dt_limit": [0.1, math.inf], "chunk_size": 64,
            }),
            embedding=0.01, eps_check=1e-6,
        ),
        # What transformers cannot compute: expected values by reference_mamba2.py.
        "ssm-norm-first": dict(
            seed=115, d_model=20, n_layer=2, vocab_size=83, tied=True,
            ssm=dict(d_state=6, headdim=10, ngroups=2, norm_before_gate=True, chunk_size=32),
        ),
        "ssm-no-norm": dict(
            seed=116, d_model=24, n_layer=2, vocab_size=77, tied=True, plain=0.4,
            ssm=dict(d_state=9, d_conv=3, headdim=8, ngroups=3, rmsnorm=False, conv_bias=False, D_has_hdim=True,
                     dt_limit=[0.05, 0.6]),
        ),
        "ssm-mlp": dict(
            seed=117, d_model=24, n_layer=2, vocab_size=94, tied=False,
            ssm=dict(d_state=7, headdim=5, ngroups=3, d_ssm=30, bias=True),
        ),
        "ssm-mlp-no-norm": dict(
            seed=118, d_model=18, n_layer=1, vocab_size=67, tied=True, plain=0.6,
            ssm=dict(d_state=16, d_conv=2, headdim=12, d_ssm=24, rmsnorm=False),
        ),
        "ssm-everything": dict(
            seed=119, d_model=21, n_layer=2, vocab_size=99, tied=False, dtype=torch.float16,
            ssm=dict(d_state=8, d_conv=2, expand=3, headdim=9, ngroups=2, d_ssm=36, D_has_hdim=True,
                     norm_before_gate=True, bias=True, conv_bias=True, dt_limit=[0.1, 0.5], chunk_size=64),
        ),
    }


def shapes(s, recipe):
    """Hugging Face name -> shape of every tensor, as mamba-ssm and transformers both have them."""
    ssm = recipe.get("ssm", {})
    cfg = recipe.get("cfg", {})
    channels = s.d_ssm + 2 * s.bc
    all_shapes = {"backbone.embeddings.weight": (s.vocab_size, s.d_model), "backbone.norm_f.weight": (s.d_model,)}
    if not s.tied:
        all_shapes["lm_head.weight"] = (s.vocab_size, s.d_model)
    bias = cfg.get("use_bias", ssm.get("bias", False))
    for layer in range(s.n_layer):
        p = f"backbone.layers.{layer}."
        all_shapes[p + "norm.weight"] = (s.d_model,)
        m = p + "mixer."
        rows = s.rows()["dt"].stop
        all_shapes |= {m + "in_proj.weight": (rows, s.d_model), m + "out_proj.weight": (s.d_model, s.d_inner)}
        all_shapes |= {m + "conv1d.weight": (channels, 1, s.d_conv)}
        all_shapes |= {m + "dt_bias": (s.n_heads,), m + "A_log": (s.n_heads,)}
        all_shapes[m + "D"] = (s.d_ssm if ssm.get("D_has_hdim") else s.n_heads,)
        if s.norm != reference.NO_NORM:
            all_shapes[m + "norm.weight"] = (s.d_ssm,)
        if bias:
            all_shapes |= {m + "in_proj.bias": (rows,), m + "out_proj.bias": (s.d_model,)}
        if cfg.get("use_conv_bias", ssm.get("conv_bias", True)):
            all_shapes[m + "conv1d.bias"] = (channels,)
    return all_shapes


def random_weights(s, recipe):
    """Every parameter, in float32, such that it matters: no zeros, no ones, logits of a standard deviation near 1.5."""
    rng = np.random.default_rng(recipe["seed"])
    rows = s.rows()
    weights = {}
    for name, shape in sorted(shapes(s, recipe).items()):
        normal = rng.standard_normal(shape)
        uniform = rng.uniform(size=shape)
        v = common.usual_weight(
            name, normal, uniform, s.d_model, s.d_inner, s.d_conv, s.tied, recipe.get("embedding", 0.7)
        )
        steep = recipe.get("steep") and ".layers.0." in name
        if name.endswith("dt_bias"):
            dt = np.exp(rng.uniform(math.log(0.03), math.log(0.8), shape))
            v = dt + np.log(-np.expm1(-dt))  # inverse softplus
            if steep:
                v[:3] = [95.0, 20.5, -12.0]  # softplus: exp overflows float32; its identity branch; a tiny delta
        elif name.endswith("A_log"):
            v = np.log(0.15 + 4.0 * uniform)
            if recipe.get("decays"):
                # States that keep nothing or everything. Not so large that -exp(A_log) is infinite in float32, or sums
                # of it over a chunk: transformers' chunked form makes NaN of these, where a recurrence is well defined.
                v[:4] = [20.0, -200.0, 60.0, -20.0]
        elif name.endswith("in_proj.weight"):
            v[rows["B"].start : rows["C"].stop] *= 1.4 / s.d_state**0.25  # B and C: their product sums over d_state
        elif name.endswith("out_proj.weight"):
            if steep:  # the heads with these deltas share a group, whose norm the first rules: the third must show
                v[:, 2 * s.head_dim : 3 * s.head_dim] *= 30.0
            v[:, s.d_mlp :] *= recipe.get("plain", 1.0)  # without a norm, y is larger
        if v is None:
            raise SystemExit(f"no rule for {name}")
        weights[name] = torch.from_numpy(np.asarray(v, dtype=np.float32))
    return weights


def original_config(d_model, n_layer, vocab_size, ssm_cfg, tied):
    return {
        "d_model": d_model, "d_intermediate": 0, "n_layer": n_layer, "vocab_size": vocab_size, "ssm_cfg": ssm_cfg,
        "attn_layer_idx": [], "attn_cfg": {}, "rms_norm": True, "residual_in_fp32": True, "fused_add_norm": True,
        "pad_vocab_size_multiple": 16, "tie_embeddings": tied,
    }


def padded(vocab_size):
    return -(-vocab_size // 16) * 16


def original_names(tensors):
    return {k.replace("backbone.embeddings.", "backbone.embedding."): v for k, v in tensors.items()}


def write_config(folder, raw, sort=True):
    """As Python writes it: an infinite number becomes the word Infinity, which is not JSON."""
    (folder / "config.json").write_text(json.dumps(raw, indent=2, sort_keys=sort) + "\n")


def build(name, recipe, folder):
    """Writes a checkpoint for transformers; returns the float32 model loaded back from what was written.

    `infinity` is how config.json spells it in `time_step_limit`: the bare word that most published ones have, the
    object that transformers 5 writes, or the whole key left out. `extra` are keys of config.json. `original`: the
    folder is then rewritten in mamba-ssm's layout.
    """
    config = Mamba2Config(**recipe["cfg"])
    dtype = recipe.get("dtype", torch.float32)
    s = reference.shape_of(config.to_dict(), config.vocab_size)
    weights = random_weights(s, recipe)
    model = Mamba2ForCausalLM(config)
    missing = model.load_state_dict(weights, strict=False)
    assert not missing.unexpected_keys and missing.missing_keys == (["lm_head.weight"] if s.tied else []), name
    model.tie_weights()
    model.to(dtype).save_pretrained(folder, max_shard_size=recipe.get("shard", "5GB"))
    (folder / "generation_config.json").unlink(missing_ok=True)
    file = folder / "model.safetensors"
    if keep := recipe.get("keep_f32", ()):
        tensors = {k: weights[k] if k.endswith(keep) else v for k, v in load_file(file).items()}
        save_file(tensors, file, metadata={"format": "pt"})
    raw = json.loads((folder / "config.json").read_text())
    raw.update(recipe.get("extra", {}))
    infinity = recipe.get("infinity", "word")
    if infinity == "word":
        raw["time_step_limit"] = [reference.number(v) for v in raw["time_step_limit"]]
    elif infinity == "absent":
        del raw["time_step_limit"]
    write_config(folder, raw)

    loaded = Mamba2ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert tuple(loaded.config.time_step_limit) == config.time_step_limit, name
    if dtype == torch.float32:
        source = model.state_dict()
        assert all(torch.equal(v, source[k]) for k, v in loaded.state_dict().items())
    if "shard" in recipe:
        assert len(list(folder.glob("model-*.safetensors"))) >= 3 and not file.exists()
    if original := recipe.get("original"):
        assert padded(original["vocab_size"]) == s.vocab_size
        raw = original_config(s.d_model, s.n_layer, original["vocab_size"], original["ssm_cfg"], s.tied)
        write_config(folder, raw, sort=False)
        save_file(original_names(load_file(file)), file)
    return loaded


def build_original(recipe, folder):
    """Writes a checkpoint in mamba-ssm's layout that transformers cannot run."""
    ssm_cfg = {"layer": "Mamba2", **recipe["ssm"]}
    raw = original_config(recipe["d_model"], recipe["n_layer"], recipe["vocab_size"], ssm_cfg, recipe["tied"])
    s = reference.shape_of(raw, padded(recipe["vocab_size"]))
    weights = {k: v.to(recipe.get("dtype", torch.float32)) for k, v in random_weights(s, recipe).items()}
    write_config(folder, raw, sort=False)
    save_file(original_names(weights), folder / "model.safetensors")


def read_back(folder):
    """Shape and weights (float64, Hugging Face names) of what was written."""
    weights = {}
    for file in sorted(folder.glob("*.safetensors")):
        for k, v in load_file(file).items():
            weights[k.replace("backbone.embedding.", "backbone.embeddings.")] = v.double().numpy()
    config = json.loads((folder / "config.json").read_text())
    return reference.shape_of(config, len(weights["backbone.embeddings.weight"])), weights


@torch.no_grad()
def run(model, tokens):
    """Logits (L, V), final states in our layout, and the greedy continuation with its smallest margin."""
    out, _, conv, ssm = common.prefill(model, tokens)
    logits = out[0].numpy()

    def logits_of(text):
        return model(torch.tensor([text]), use_cache=False).logits[0].numpy()

    return logits, conv, ssm, *continued(logits_of, tokens, logits)


def continued(logits_of, tokens, logits):
    """The greedy continuation, each token by the whole text over again, and its smallest margin.

    Not by single steps: transformers' step does not clamp delta to its limits (nor does mamba-ssm's), and so is another
    model than its own prefill where there are any.
    """
    greedy, margin = [], math.inf
    if margins(logits).min() < MIN_MARGIN:
        return greedy, margin  # these tokens will not be used
    for _ in range(GREEDY):
        margin = min(margin, float(margins(logits[-1:])[0]))
        greedy.append(int(logits[-1].argmax()))
        logits = logits_of(tokens + greedy)
    return greedy, margin


@torch.no_grad()
def check_steps(name, model, s, entries):
    """transformers' steps continue its prefill where delta has no limits, and visibly do not where it has."""
    off = []
    for entry in entries:
        tokens, greedy = entry["tokens"], entry["greedy"]
        cache = model(torch.tensor([tokens]), use_cache=True).cache_params
        for token in greedy:
            step = model(torch.tensor([[token]]), cache_params=cache, use_cache=True).logits[0, -1]
        whole = model(torch.tensor([tokens + greedy]), use_cache=False).logits[0, -1]
        off.append(float((step - whole).abs().max()))
    if s.dt_limit == INFINITE:
        assert max(off) < 1e-4, f"{name}: steps leave the prefill by {off}"
    else:
        assert min(off) > MIN_EFFECT, f"{name}: steps without limits would go unnoticed: {off}"


def golden(name, recipe, out):
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    by_transformers = "cfg" in recipe
    if by_transformers:
        model = build(name, recipe, folder)
    else:
        build_original(recipe, folder)
    s, weights = read_back(folder)

    def exact(tokens):
        return reference.forward(weights, s, tokens)

    if by_transformers:
        state = {k: v.double().numpy() for k, v in model.state_dict().items()}
        assert all(np.array_equal(state[k], v) for k, v in weights.items()), name
        source, check = common.transformers_source(), exact

        def compute(tokens):
            return run(model, tokens)

    else:
        source = {"reference": "reference_mamba2.py", "numpy": np.__version__, "device": "cpu", "dtype": "float64"}
        narrow = {k: v.astype(np.float32) for k, v in weights.items()}

        def compute(tokens):
            result = exact(tokens)
            return *result, *continued(lambda text: exact(text)[0], tokens, result[0])

        def check(tokens):
            return reference.forward(narrow, s, tokens)

    # mamba-ssm pads the embedding: the padded rows are scored like all others, but never fed.
    vocab = recipe.get("fed") or recipe.get("original", recipe).get("vocab_size", s.vocab_size)
    entries, found = common.sequences(name, recipe["seed"], vocab, compute, check)
    if by_transformers:
        check_steps(name, model, s, entries)

    tokens = entries[0]["tokens"]

    def others():
        for what, w in reference.variants(weights, s):
            yield what, reference.forward(w, s, tokens)[0]
        for what in reference.mistakes(weights, s):
            yield what, reference.forward(weights, s, tokens, wrong=what)[0]
        if "eps_check" in recipe:
            for key in ("eps", "gate_eps")[: 2 if s.eps > 1e-3 else 1]:
                other = copy.copy(s)
                setattr(other, key, recipe["eps_check"])
                yield f"{key} {recipe['eps_check']}", reference.forward(weights, other, tokens)[0]

    effects = common.largest_effects(name, exact(tokens)[0], others())
    config = {
        "d_model": s.d_model, "n_layer": s.n_layer, "vocab_size": s.vocab_size, "d_inner": s.d_inner,
        "d_state": s.d_state, "d_conv": s.d_conv, "d_ssm": s.d_ssm, "n_heads": s.n_heads, "head_dim": s.head_dim,
        "n_groups": s.n_groups, "norm": s.norm,
    }
    return common.write_expected(name, folder, source, config, entries, found, effects)


if __name__ == "__main__":
    common.main(__doc__, recipes(), golden, HERE / "mamba2")
