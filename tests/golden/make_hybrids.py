#!/usr/bin/env python3
"""Writes small random Llamas and hybrids, and what transformers says of them.

    /tmp/goldens/bin/python tests/golden/make_hybrids.py             # all of them, into tests/golden/hybrids
    /tmp/goldens/bin/python tests/golden/make_hybrids.py llama --out /tmp/x    # one, elsewhere

See make_goldens.py for the environment, README.md for what each checkpoint is for.
"""

import json
import math
import re
import shutil

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

import common
import reference_hybrids as reference
from common import GREEDY, HERE, MIN_EFFECT, MIN_MARGIN, compact, margins

MAX_ERROR = 1e-4  # of transformers' float32 logits against reference_hybrids.py in float64
MIN_ROUTER_MARGIN = 1e-3  # between an expert that was chosen and one that was not
LOGITS = 1.8  # their standard deviation, about
INFINITE = [0.0, math.inf]
# Matrices before a norm: their scale makes no difference.
NORMED = {"qwen3": "[qk]_proj", "jamba": "x_proj"}
EPS = 0.03  # of some: so large that another one shows
BF16 = dict(dtype=torch.bfloat16)


def old(kind, architecture, version="4.57.1", dtype="float32", **keys):
    """A config.json as published ones are: earlier spellings, and keys that change nothing."""
    return dict(
        architectures=[architecture], model_type=kind, torch_dtype=dtype, transformers_version=version, use_cache=True,
        bos_token_id=0, eos_token_id=1, initializer_range=0.02, attention_dropout=0.0, hidden_act="silu", **keys,
    )


def llama(kind="llama", d_model=32, heads=(4, 2), layers=3, ff=48, vocab=96, **more):
    return dict(model_type=kind, hidden_size=d_model, num_attention_heads=heads[0], num_key_value_heads=heads[1],
                num_hidden_layers=layers, intermediate_size=ff, vocab_size=vocab, max_position_embeddings=1024, **more)


def llamas():
    scaling = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64,
                   rope_type="llama3")
    return {
        "llama": dict(seed=201, cfg=llama(tie_word_embeddings=False, rms_norm_eps=1e-5), long=True),
        "llama-hub": dict(seed=202, hub=old("llama", "LlamaForCausalLM", **without_kind(llama(
            layers=2, heads=(6, 2), d_model=48, vocab=80, rms_norm_eps=1e-5, rope_theta=500000.0, rope_scaling=None,
            tie_word_embeddings=False, attention_bias=False, mlp_bias=False, pretraining_tp=1)))),
        "llama-bias": dict(seed=203, cfg=llama(
            rms_norm_eps=EPS,
            layers=2, heads=(4, 4), head_dim=12, attention_bias=True, mlp_bias=True, tie_word_embeddings=True)),
        # The kernels read heads four channels at a time: the CPU alone runs it. Llama's class turns whole heads whatever this says.
        "llama-heads-of-10": dict(seed=211, cfg=llama(
            layers=2, heads=(4, 2), head_dim=10, rms_norm_eps=1e-5, tie_word_embeddings=True,
            rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.4))),
        "llama31-hub": dict(seed=204, hub=old("llama", "LlamaForCausalLM", **without_kind(llama(
            d_model=64, head_dim=16, layers=2, ff=40, rms_norm_eps=1e-5, rope_theta=500000.0, rope_scaling=scaling,
            tie_word_embeddings=True, attention_bias=False, mlp_bias=False)))),
        "llama31": dict(seed=205, cfg=llama(
            head_dim=16, layers=2, rms_norm_eps=1e-5, rope_parameters=dict(rope_theta=500000.0, **scaling))),
        "qwen2-hub": dict(seed=206, hub=old("qwen2", "Qwen2ForCausalLM", **without_kind(llama(
            layers=3, rms_norm_eps=1e-6, rope_theta=1000000.0, tie_word_embeddings=True, max_window_layers=2,
            sliding_window=32768, use_sliding_window=False, use_mrope=False)))),
        "qwen2": dict(seed=207, cfg=llama("qwen2", layers=2, vocab=72, rope_parameters=dict(
            rope_type="default", rope_theta=1000000.0))),
        "qwen3": dict(seed=208, cfg=llama("qwen3", head_dim=24, heads=(4, 2), layers=2, tie_word_embeddings=True,
                                          rope_parameters=dict(rope_type="default", rope_theta=1000000.0))),
        "mistral-window": dict(seed=209, cfg=llama("mistral", layers=3, sliding_window=24, rms_norm_eps=1e-5)),
        "smollm-bf16-sharded": dict(seed=210, shard="24KB", shards=2, **BF16, hub=old(
            "llama", "LlamaForCausalLM", dtype="bfloat16", **without_kind(llama(
                d_model=48, heads=(6, 2), layers=2, ff=56, rms_norm_eps=1e-5, rope_theta=100000, rope_scaling=None,
                tie_word_embeddings=True, rope_interleaved=False)))),
    }


def without_kind(cfg):
    return {k: v for k, v in cfg.items() if k != "model_type"}


def granite(d_model=32, heads=(4, 2), kinds="MM*M*", mamba=(4, 16), groups=1, state=16, shared=40, vocab=88, **more):
    return dict(
        model_type="granitemoehybrid", hidden_size=d_model, num_attention_heads=heads[0],
        num_key_value_heads=heads[1], num_hidden_layers=len(kinds),
        layer_types=["mamba" if k == "M" else "attention" for k in kinds], mamba_n_heads=mamba[0],
        mamba_d_head=mamba[1], mamba_n_groups=groups, mamba_d_state=state, mamba_d_conv=4, mamba_expand=2,
        mamba_chunk_size=32, mamba_conv_bias=True, shared_intermediate_size=shared,
        vocab_size=vocab, max_position_embeddings=1024,
        **{"rms_norm_eps": 1e-5, "mamba_proj_bias": False, "intermediate_size": 24, "num_local_experts": 0,
           "num_experts_per_tok": 0,
           "embedding_multiplier": 3.0,
           "attention_multiplier": 0.21, "residual_multiplier": 0.6, "logits_scaling": 3.0,
           "attention_bias": False, "tie_word_embeddings": True, **more},
    )


def granites():
    nope = dict(position_embedding_type="nope")
    hub = dict(rope_theta=10000, rope_scaling=None, init_method="mup", normalization_function="rmsnorm",
               output_router_logits=False, router_aux_loss_coef=0.0, **nope)
    return {
        "granite-hub": dict(seed=221, hub=old("granitemoehybrid", "GraniteMoeHybridForCausalLM", **without_kind(
            granite(**hub))), long=True),
        "granite": dict(seed=222, cfg=granite(
            rms_norm_eps=EPS,
            kinds="M*M*", groups=2, heads=(6, 2), d_model=48, mamba=(8, 12), tie_word_embeddings=False,
            attention_multiplier=0.3, **nope)),
        "granite-rope": dict(seed=223, limited=True, cfg=granite(
            kinds="*M*M", heads=(4, 4), mamba=(16, 4), state=8, position_embedding_type="rope", mamba_proj_bias=True,
            time_step_limit=[0.05, 0.9], rope_parameters=dict(rope_type="default", rope_theta=5000.0))),
        "granite-bf16-sharded": dict(seed=224, shard="30KB", cfg=granite(kinds="M*M*", **nope), **BF16),
    }


def falcon(d_model=32, heads=(4, 2), layers=3, d_ssm=48, mamba=(6, 8), groups=1, state=12, ff=48, vocab=90, **more):
    return dict(
        model_type="falcon_h1", hidden_size=d_model, num_attention_heads=heads[0], num_key_value_heads=heads[1],
        num_hidden_layers=layers, mamba_d_ssm=d_ssm, mamba_n_heads=mamba[0], mamba_d_head=mamba[1],
        mamba_n_groups=groups, mamba_d_state=state, mamba_d_conv=4, mamba_expand=2, mamba_chunk_size=32,
        intermediate_size=ff, vocab_size=vocab, max_position_embeddings=1024,
        embedding_multiplier=2.5, lm_head_multiplier=0.4, mlp_multipliers=[0.8, 0.6], key_multiplier=0.7,
        attention_in_multiplier=0.9, attention_out_multiplier=0.75, ssm_in_multiplier=1.25, ssm_out_multiplier=0.65,
        ssm_multipliers=[0.7, 1.2, 0.8, 1.1, 0.6],
        **{"rms_norm_eps": 1e-5, **more},
    )


def falcons():
    theta = dict(rope_parameters=dict(rope_type="default", rope_theta=1e11))
    hub = dict(
        head_dim=16, rope_theta=100000000000.0, rope_scaling=None, mamba_use_mlp=True, mlp_expansion_factor=8,
        num_logits_to_keep=1, projectors_bias=False, attention_bias=False, mlp_bias=False, mamba_conv_bias=True,
        mamba_proj_bias=False, mamba_rms_norm=False, mamba_norm_before_gate=False, tie_word_embeddings=False,
        attn_layer_indices=None, time_step_floor=0.0001, time_step_limit=INFINITE, time_step_max=0.1,
        time_step_min=0.001, time_step_rank="auto", pad_token_id=0,
    )
    return {
        "falcon-h1-hub": dict(seed=231, hub=old("falcon_h1", "FalconH1ForCausalLM", **without_kind(falcon(**hub)))),
        "falcon-h1": dict(seed=232, cfg=falcon(
            rms_norm_eps=EPS,
            layers=2, heads=(6, 2), d_model=48, d_ssm=72, mamba=(6, 12), groups=3, mamba_rms_norm=True,
            mamba_norm_before_gate=True, tie_word_embeddings=True, projectors_bias=True, attention_bias=True,
            mlp_bias=True, mamba_proj_bias=True, **theta)),
        "falcon-h1-gate-first": dict(seed=233, limited=True, cfg=falcon(
            layers=2, heads=(4, 4), groups=2, mamba_rms_norm=True, mamba_norm_before_gate=False, head_dim=16,
            time_step_limit=[0.06, 0.7], **theta)),
        "falcon-h1-bf16-sharded": dict(seed=234, shard="30KB", cfg=falcon(
            layers=2, mamba_rms_norm=True, mamba_norm_before_gate=False, **theta), **BF16),
    }


def nemotron(pattern, d_model=32, heads=(4, 2), head_dim=12, mamba=(6, 8), groups=2, state=12, ff=56, vocab=86, **more):
    return dict(
        model_type="nemotron_h", hybrid_override_pattern=pattern, hidden_size=d_model, num_attention_heads=heads[0],
        num_key_value_heads=heads[1], head_dim=head_dim, mamba_num_heads=mamba[0], mamba_head_dim=mamba[1],
        n_groups=groups, ssm_state_size=state, conv_kernel=4, expand=2, chunk_size=32, intermediate_size=ff,
        vocab_size=vocab, max_position_embeddings=1024, **{"layer_norm_epsilon": 1e-5, **more},
    )


def nemotrons():
    hub = dict(
        num_hidden_layers=7, attention_bias=False, mlp_bias=False, mlp_hidden_act="relu2", mamba_hidden_act="silu",
        mamba_proj_bias=False, use_bias=False, use_conv_bias=True, mamba_ssm_cache_dtype="float32", sliding_window=None,
        rescale_prenorm_residual=True, residual_in_fp32=False, tie_word_embeddings=False, time_step_floor=0.0001,
        time_step_limit=INFINITE, time_step_max=0.1, time_step_min=0.001, time_step_rank=256, rope_theta=10000,
        num_logits_to_keep=1, hidden_dropout=0.0, norm_eps=1e-5, partial_rotary_factor=1.0,
    )
    pattern = "M-M*-M*"
    return {
        "nemotron-h-hub": dict(seed=241, hub=old("nemotron_h", "NemotronHForCausalLM", "4.48.0.dev0", **without_kind(
            nemotron(pattern, **hub)))),
        "nemotron-h": dict(seed=242, limited=True, cfg=nemotron(
            "*M-*M-", layer_norm_epsilon=EPS, heads=(6, 2), head_dim=8, groups=1, use_bias=True,
            mlp_bias=True, time_step_min=0.04)),
        "nemotron-h-bf16-sharded": dict(seed=243, shard="20KB", cfg=nemotron("M*-M*-"), **BF16),
    }


def bamba(d_model=32, heads=(4, 2), layers=4, attention=(1, 3), mamba=(4, 16), groups=1, state=12, ff=48, vocab=84,
          **more):
    return dict(
        model_type="bamba", hidden_size=d_model, num_attention_heads=heads[0], num_key_value_heads=heads[1],
        num_hidden_layers=layers, attn_layer_indices=list(attention), mamba_n_heads=mamba[0], mamba_d_head=mamba[1],
        mamba_n_groups=groups, mamba_d_state=state, mamba_d_conv=4, mamba_expand=2, mamba_chunk_size=32,
        intermediate_size=ff, vocab_size=vocab, max_position_embeddings=1024, **{"rms_norm_eps": 1e-5, **more},
    )


def bambas():
    hub = dict(attn_rotary_emb=4, rope_theta=10000.0, mamba_conv_bias=True, mamba_proj_bias=False, mlp_bias=False,
               attention_bias=False, num_logits_to_keep=1, pad_token_id=0, tie_word_embeddings=False)
    return {
        "bamba-hub": dict(seed=251, hub=old("bamba", "BambaForCausalLM", "4.48.0.dev0", **without_kind(bamba(**hub)))),
        "bamba": dict(seed=252, limited=True, cfg=bamba(
            rms_norm_eps=EPS,
            d_model=48, heads=(6, 2), layers=3, attention=(0, 2), mamba=(8, 12), groups=2, mamba_proj_bias=True,
            attention_bias=True, mlp_bias=True, tie_word_embeddings=True, time_step_limit=[0.05, 0.9])),
        "bamba-bf16-sharded": dict(seed=253, shard="25KB", cfg=bamba(layers=3, attention=(1, 2)), **BF16),
    }


def jamba(d_model=32, heads=(4, 2), layers=4, attention=(2, 1), state=8, rank=4, ff=48, vocab=82, **more):
    return dict(
        model_type="jamba", hidden_size=d_model, num_attention_heads=heads[0], num_key_value_heads=heads[1],
        num_hidden_layers=layers, attn_layer_period=attention[0], attn_layer_offset=attention[1], mamba_d_state=state,
        mamba_d_conv=4, mamba_expand=2, mamba_dt_rank=rank, intermediate_size=ff, vocab_size=vocab,
        max_position_embeddings=1024,
        **{"rms_norm_eps": 1e-6, "num_experts": 1, "num_experts_per_tok": 1, "expert_layer_period": 2,
           "expert_layer_offset": 1, **more},
    )


def jambas():
    hub = dict(mamba_conv_bias=True, mamba_proj_bias=False, use_mamba_kernels=True, sliding_window=None, pad_token_id=0,
               output_router_logits=False, router_aux_loss_coef=0.001, num_logits_to_keep=1, tie_word_embeddings=True)
    return {
        "jamba-hub": dict(seed=261, hub=old("jamba", "JambaForCausalLM", "4.54.0", **without_kind(jamba(**hub)))),
        "jamba": dict(seed=262, cfg=jamba(
            rms_norm_eps=EPS,
            heads=(4, 4), layers=3, attention=(2, 0), rank="auto", d_model=48, mamba_proj_bias=True)),
        "jamba-bf16-sharded": dict(seed=263, shard="25KB", cfg=jamba(layers=3, attention=(2, 0)), **BF16),
    }


def mixtures():
    """Those with experts."""
    experts = dict(num_local_experts=6, num_experts_per_tok=2)
    nope = dict(position_embedding_type="nope", rope_theta=10000, rope_scaling=None, init_method="mup")
    routed = dict(n_routed_experts=8, num_experts_per_tok=3, moe_intermediate_size=20, n_shared_experts=1,
                  moe_shared_expert_intermediate_size=28, n_group=4, topk_group=2, routed_scaling_factor=1.5,
                  norm_topk_prob=True)
    plain = dict(n_routed_experts=6, num_experts_per_tok=2, moe_intermediate_size=20, moe_latent_size=20,
                 moe_shared_expert_intermediate_size=28, routed_scaling_factor=2.5, norm_topk_prob=False)
    some = dict(num_experts=5, num_experts_per_tok=2)
    words = dict(time_step_limit=INFINITE, time_step_min=0.001, num_hidden_layers=6, mlp_hidden_act="relu2")
    return {
        "granite-moe-hub": dict(seed=271, hub=old("granitemoehybrid", "GraniteMoeHybridForCausalLM", **without_kind(
            granite(kinds="M*M*", state=8, **experts, **{"intermediate_size": 12, **nope})))),
        "granite-moe": dict(seed=272, cfg=granite(
            kinds="*M*", num_local_experts=4, num_experts_per_tok=3, position_embedding_type="nope",
            tie_word_embeddings=False)),
        "nemotron-h-moe-hub": dict(seed=273, hub=old("nemotron_h", "NemotronHForCausalLM", "4.55.4", **without_kind(
            nemotron("ME*ME*", **routed, **words)))),
        "nemotron-h-moe": dict(seed=284, cfg=nemotron("*E*ME", **plain)),
        "jamba-moe-hub": dict(seed=275, hub=old("jamba", "JambaForCausalLM", "4.40.1", **without_kind(
            jamba(**some, ff=28, use_mamba_kernels=True, calc_logits_for_entire_prompt=False)))),
        "jamba-moe": dict(seed=276, cfg=jamba(
            layers=3, attention=(2, 0), ff=32, num_experts=3, num_experts_per_tok=1, expert_layer_period=2,
            expert_layer_offset=0)),
    }


def recipes():
    """name -> how to build it: `cfg`, keys of transformers' configuration, which writes config.json and tensors as it
    does today; or `hub`, config.json itself, with tensors named as in published files."""
    return {**llamas(), **granites(), **falcons(), **nemotrons(), **bambas(), **jambas(), **mixtures()}


def spread(name, shape, config, tied):
    """The standard deviation of a matrix: such that every part of a layer counts and attention is not uniform."""
    d_model = config.hidden_size
    if "lm_head" in name or tied and "embed" in name:
        scale = getattr(config, "lm_head_multiplier", 1.0) / getattr(config, "logits_scaling", 1.0)
        return LOGITS / scale / math.sqrt(d_model)
    if "embed" in name:
        return 0.7 / getattr(config, "embedding_multiplier", 1.0)
    gain = 1.4
    for part, other in (("q_proj", 1.7), ("k_proj", 1.7), ("in_proj", 1.3), ("conv1d", 1.2), ("dt_proj", 0.5),
                        ("router", 2.0), (".gate.", 2.0), ("out_proj", 1.0), ("down_proj", 1.0), ("o_proj", 1.2)):
        if part in name:
            gain = other
    return gain / math.sqrt(shape[-1])


def random_weights(model, seed):
    """Every parameter, in float32: no zeros, no ones."""
    rng = np.random.default_rng(seed)
    config, tied = model.config, model.config.tie_word_embeddings
    weights = {}
    for name, old_value in sorted(model.state_dict().items()):
        if tied and name == "lm_head.weight":
            continue
        shape = tuple(old_value.shape)
        normal, uniform = rng.standard_normal(shape), rng.uniform(size=shape)
        if name.endswith("norm.weight") or "norm_f" in name:
            v = 0.6 + 0.9 * uniform
        elif name.endswith(("dt_bias", "dt_proj.bias")):
            dt = np.exp(math.log(0.03) + uniform * math.log(0.8 / 0.03))
            v = dt + np.log(-np.expm1(-dt))  # inverse softplus
        elif name.endswith("A_log"):
            v = np.log(0.15 + 4.0 * uniform)
        elif name.endswith(".D"):
            v = 0.5 + uniform
        elif name.endswith("bias"):
            v = normal * (0.2 if "correction" in name else 0.4)
        else:
            v = normal * spread(name, shape, config, tied)
        weights[name] = torch.from_numpy(np.asarray(v, dtype=np.float32))
    return weights


def published(kind, tensors):
    """transformers' names in memory, changed to those in published files."""
    renamed = {}
    for name, v in tensors.items():
        if kind == "granitemoehybrid":
            name = name.replace("moe.experts.gate_up_proj", "moe.input_linear.weight")
            name = name.replace("moe.experts.down_proj", "moe.output_linear.weight")
            name = name.replace("moe.router.weight", "moe.router.layer.weight")
        elif kind == "nemotron_h":
            name = re.sub("^model[.]", "backbone.", name)
        if kind in ("nemotron_h", "jamba") and (at := re.match(r"(.*[.]experts)[.](\w+)$", name)):
            for e, one in enumerate(v):
                halves = one.chunk(2) if at[2] == "gate_up_proj" else (one,)
                for part, half in zip(("gate_proj", "up_proj") if len(halves) == 2 else (at[2],), halves):
                    renamed[f"{at[1]}.{e}.{part}.weight"] = half.contiguous()
        else:
            renamed[name] = v
    return renamed


def write_published(folder, tensors, shards):
    if not shards:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = list(tensors)
    size = -(-len(names) // shards)
    index = {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = {k: tensors[k] for k in names[i * size : (i + 1) * size]}
        save_file(part, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(part, file)
    total = sum(v.numel() * v.element_size() for v in tensors.values())
    raw = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(raw, indent=2) + "\n")


def build(name, recipe, folder):
    """Writes a checkpoint; returns the float32 model loaded back from what was written."""
    dtype = recipe.get("dtype", torch.float32)
    if hub := recipe.get("hub"):
        (folder / "config.json").write_text(json.dumps(hub, indent=2) + "\n")
        config = AutoConfig.from_pretrained(folder)
    else:
        config = AutoConfig.for_model(**recipe["cfg"])
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    weights = random_weights(model, recipe["seed"])
    tied = ["lm_head.weight"] if config.tie_word_embeddings else []
    missing = model.load_state_dict(weights, strict=False)
    assert not missing.unexpected_keys and missing.missing_keys == tied, (name, missing)
    model.tie_weights()
    weights = {k: v.to(dtype) for k, v in weights.items()}
    if hub:
        write_published(folder, published(hub["model_type"], weights), recipe.get("shards"))
    else:
        model.to(dtype).save_pretrained(folder, max_shard_size=recipe.get("shard", "5GB"))
        (folder / "generation_config.json").unlink(missing_ok=True)
    if "shard" in recipe:
        assert len(list(folder.glob("model-*.safetensors"))) >= 2, name
    loaded = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
    ).eval()
    state = loaded.state_dict()
    assert all(torch.equal(v.float(), state[k]) for k, v in weights.items()), name
    return loaded


def read_back(folder):
    weights = {}
    for file in sorted(folder.glob("*.safetensors")):
        weights |= {k: v.double().numpy() for k, v in load_file(file).items()}
    return json.loads((folder / "config.json").read_text()), weights


def dimensions(model, raw, weights):
    """Of Mamba by the names the other goldens use; of attention by names of their own."""
    config = model.config
    layers = 1 + max(int(k.split(".layers.")[1].split(".")[0]) for k in weights if ".layers." in k)
    wide = next((v.shape[0] for k, v in weights.items() if k.endswith("q_proj.weight")), 0)
    result = {
        "d_model": config.hidden_size, "n_layer": layers, "vocab_size": config.vocab_size,
        "d_inner": next((v.shape[1] for k, v in weights.items() if k.endswith("out_proj.weight")), 0),
        "family": raw["model_type"], "q_heads": config.num_attention_heads,
        "kv_heads": config.num_key_value_heads, "attention_head_dim": wide // config.num_attention_heads,
    }
    conv = next((v for k, v in weights.items() if k.endswith("conv1d.weight")), None)
    if conv is None:
        return result
    result["d_conv"] = conv.shape[2]
    nemotron = raw["model_type"] == "nemotron_h"
    result["d_state"] = config.ssm_state_size if nemotron else config.mamba_d_state
    if raw["model_type"] == "jamba":
        return result | {"dt_rank": config.mamba_dt_rank}
    heads = config.mamba_num_heads if nemotron else config.mamba_n_heads
    return result | {"d_ssm": result["d_inner"], "n_heads": heads, "head_dim": result["d_inner"] // heads,
                     "n_groups": config.n_groups if nemotron else config.mamba_n_groups}


def sequence(name, model, exact, seed, length):
    """One entry of expected.json, with its least margin and its distance from float64."""
    def logits_of(text):
        return model(torch.tensor([text]), use_cache=False).logits[0].numpy()

    for attempt in range(1000):
        rng = np.random.default_rng([*seed, attempt])
        tokens = rng.integers(0, model.config.vocab_size, length).tolist()
        logits = logits_of(tokens)
        smallest = float(margins(logits).min())
        if smallest < MIN_MARGIN:
            continue
        text = list(tokens)
        last = logits
        for _ in range(GREEDY):
            smallest = min(smallest, float(margins(last[-1:])[0]))
            text.append(int(last[-1].argmax()))
            last = logits_of(text)
        if smallest < MIN_MARGIN:
            continue
        other, routed = exact(text)
        error = float(np.abs(other - last).max())
        assert error < 20 * MAX_ERROR or routed < MIN_ROUTER_MARGIN, f"{name}: the reference differs by {error}"
        if error < MAX_ERROR and routed > (MIN_ROUTER_MARGIN if length < 100 else 1e-4):
            break
    else:
        raise SystemExit(f"{name}: no suitable tokens")
    at = sorted({length // 5, length - 2} | ({23, 24, 63, 64, 127, 128, 255, 256} if length > 200 else set()))
    entry = {
        "tokens": tokens, "argmax": logits.argmax(axis=-1).tolist(), "last_logits": compact(logits[-1]),
        "logits_at": {str(t): compact(logits[t]) for t in at} if length > 1 else {},
        "nll_sum": compact(common.nll_sum(logits, tokens)), "greedy": text[length:],
    }
    return entry, smallest, error, float(logits.std())


def effects(weights, raw, tokens):
    """How far the last logits go when all tensors of a class are zeroed, or 1.1 times as large."""
    def last(w):
        return reference.forward(w, raw, tokens)[0][-1]

    base = last(weights)
    for kind in sorted({re.sub(r"[.]\d+[.]", ".N.", k) for k in weights}):
        normed = NORMED.get(raw["model_type"])
        for by in (0.0,) if normed and re.search(normed, kind) else (0.0, 1.1):
            other = {k: v * by if re.sub(r"[.]\d+[.]", ".N.", k) == kind else v for k, v in weights.items()}
            with np.errstate(all="ignore"):
                yield f"{kind} x {by:g}", last(other) - base + 0.0


def steps_differ(model, tokens, greedy):
    """How far transformers' single steps from a cache are off its prefill.

    Positions are given: without them Bamba takes each step to be the text's first token.
    """
    cache = model(torch.tensor([tokens]), use_cache=True).past_key_values
    for at, token in enumerate(greedy, len(tokens)):
        place = torch.tensor([[at]])
        out = model(torch.tensor([[token]]), past_key_values=cache, position_ids=place, use_cache=True)
        step = out.logits[0, -1]
    whole = model(torch.tensor([tokens + greedy]), use_cache=False).logits[0, -1]
    return float((step - whole).abs().max())


@torch.no_grad()
def golden(name, recipe, out):
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model = build(name, recipe, folder)
    raw, weights = read_back(folder)

    def exact(tokens):
        return reference.forward(weights, reads(model, raw), tokens)

    found = [sequence(name, model, exact, (recipe["seed"], i), length)
             for i, length in enumerate((37, 1, 300 if recipe.get("long") else 130))]
    entries = [f[0] for f in found]
    off = {k: float(np.abs(v).max()) for k, v in effects(weights, reads(model, raw), entries[0]["tokens"])}
    for what, effect in off.items():
        assert effect > (2e-3 if "x 1.1" in what else MIN_EFFECT), f"{name}: {what} moves {effect} only"
    steps = steps_differ(model, entries[0]["tokens"], entries[0]["greedy"])
    # transformers' steps do not clamp delta: with limits that bite they are another model.
    assert steps > MIN_EFFECT if recipe.get("limited") else steps < 1e-4, f"{name}: steps leave the prefill by {steps}"
    said = {"std": found[2][3], "margin": min(f[1] for f in found), "error": max(f[2] for f in found)}
    return common.write_expected(
        name, folder, common.transformers_source(), dimensions(model, raw, weights), entries, said, off
    )


def reads(model, raw):
    """config.json, with transformers' defaults where it has nothing."""
    return {**model.config.to_dict(), **raw}


if __name__ == "__main__":
    common.main(__doc__, recipes(), golden, HERE / "hybrids")
