"""Llama and the hybrids in numpy float64, by their equations: from config.json and tensors, without transformers.

Text by text, token by token where there is a state: slow, and easy to compare with a paper.
"""

import math

import numpy as np


def silu(x):
    return x / (1.0 + np.exp(-x))


def softplus(x):
    return np.logaddexp(0.0, x)


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def rms(x, weight, eps, groups=1):
    parts = x.reshape(*x.shape[:-1], groups, -1)
    parts = parts / np.sqrt((parts**2).mean(axis=-1, keepdims=True) + eps)
    return parts.reshape(x.shape) * weight


def linear(w, name, x):
    bias = w.get(name + ".bias")
    y = x @ w[name + ".weight"].T
    return y if bias is None else y + bias


def rope_of(raw, head_dim):
    """Angles a position, one for each pair of channels (i, i + n), n = half of what is turned; None: no positions."""
    kind = raw["model_type"]
    if kind in ("nemotron_h", "jamba") or kind == "granitemoehybrid" and raw.get("position_embedding_type") != "rope":
        return None
    parameters = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    theta = parameters.get("rope_theta", raw.get("rope_theta", 10000.0))
    width = head_dim // 2 if kind == "bamba" else head_dim
    angles = theta ** (-np.arange(0, width, 2) / width)
    if parameters.get("rope_type", "default") == "llama3":
        low, high, factor = (parameters[k] for k in ("low_freq_factor", "high_freq_factor", "factor"))
        turns = parameters["original_max_position_embeddings"] * angles / (2 * math.pi)
        share = np.clip((turns - low) / (high - low), 0.0, 1.0)
        angles = share * angles + (1.0 - share) * angles / factor
    return angles


def turned(x, angles):
    """x (heads, L, head_dim), the first channels of each head turned by position times angle."""
    if angles is None:
        return x
    n = len(angles)
    by = np.arange(x.shape[1])[:, None] * angles
    a, b = x[..., :n], x[..., n : 2 * n]
    return np.concatenate([a * np.cos(by) - b * np.sin(by), b * np.cos(by) + a * np.sin(by), x[..., 2 * n :]], axis=-1)


def attention(w, p, raw, x):
    """Causal attention of grouped queries."""
    length, heads = len(x), raw["num_attention_heads"]
    q, k, v = (linear(w, f"{p}{name}_proj", x) for name in "qkv")
    head_dim = q.shape[1] // heads
    q, k, v = (y.reshape(length, -1, head_dim) for y in (q, k, v))
    if p + "q_norm.weight" in w:
        q, k = (rms(y, w[f"{p}{name}_norm.weight"], raw["rms_norm_eps"]) for name, y in (("q", q), ("k", k)))
    k = k * raw.get("key_multiplier", 1.0)
    angles = rope_of(raw, head_dim)
    q, k, v = (y.transpose(1, 0, 2) for y in (q, k, v))
    q, k = turned(q, angles), turned(k, angles)
    k, v = (y.repeat(heads // len(y), axis=0) for y in (k, v))
    scale = raw["attention_multiplier"] if raw["model_type"] == "granitemoehybrid" else head_dim**-0.5
    back = np.arange(length)[:, None] - np.arange(length)
    seen = back >= 0
    if raw["model_type"] == "mistral" and raw.get("sliding_window"):
        seen &= back < raw["sliding_window"]
    weights = softmax(np.where(seen, q @ k.transpose(0, 2, 1) * scale, -np.inf))
    return linear(w, p + "o_proj", (weights @ v).transpose(1, 0, 2).reshape(length, -1))


def convolved(w, p, x):
    """Depthwise and causal, then SiLU."""
    taps = w[p + "conv1d.weight"][:, 0]
    width = taps.shape[1]
    padded = np.concatenate([np.zeros((width - 1, x.shape[1])), x])
    y = sum(padded[i : i + len(x)] * taps[:, i] for i in range(width))
    return silu(y + w.get(p + "conv1d.bias", 0.0))


def mamba2(w, p, raw, x):
    nemotron, falcon = raw["model_type"] == "nemotron_h", raw["model_type"] == "falcon_h1"
    heads = raw["mamba_num_heads" if nemotron else "mamba_n_heads"]
    groups = raw["n_groups" if nemotron else "mamba_n_groups"]
    state = raw["ssm_state_size" if nemotron else "mamba_d_state"]
    inner = w[p + "out_proj.weight"].shape[1]
    bc = groups * state
    projected = linear(w, p + "in_proj", x * raw.get("ssm_in_multiplier", 1.0))
    if falcon:
        projected = projected * np.repeat(raw["ssm_multipliers"], [inner, inner, bc, bc, heads])
    gate, xbc, dt = np.split(projected, [inner, 2 * inner + 2 * bc], axis=1)
    xbc = convolved(w, p, xbc)
    dt = softplus(dt + w[p + "dt_bias"])
    # transformers has [time_step_min, infinity] for Nemotron, whatever its time_step_limit says.
    low, high = (raw["time_step_min"], math.inf) if nemotron else (raw.get("time_step_limit") or (0.0, math.inf))
    dt = np.clip(dt, low, float(high["__float__"]) if isinstance(high, dict) else high)
    a = -np.exp(w[p + "A_log"])
    s = np.zeros((heads, inner // heads, state))
    y = np.empty((len(x), inner))
    for t, row in enumerate(xbc):
        u = row[:inner].reshape(heads, -1)
        b, c = (m.reshape(groups, state).repeat(heads // groups, axis=0) for m in (row[inner:][:bc], row[inner + bc :]))
        s = s * np.exp(dt[t] * a)[:, None, None] + (dt[t][:, None] * u)[:, :, None] * b[:, None]
        y[t] = ((s @ c[:, :, None])[..., 0] + w[p + "D"][:, None] * u).ravel()
    eps = raw["layer_norm_epsilon" if nemotron else "rms_norm_eps"]
    if falcon and not raw["mamba_rms_norm"]:
        y = y * silu(gate)
    elif falcon and raw["mamba_norm_before_gate"]:
        y = rms(y, w[p + "norm.weight"], eps, groups) * silu(gate)
    else:
        y = rms(y * silu(gate), w[p + "norm.weight"], eps, groups)
    return linear(w, p + "out_proj", y)


def mamba1(w, p, raw, x):
    """Jamba's: with norms of their own on dt, B and C."""
    eps, state = raw["rms_norm_eps"], raw["mamba_d_state"]
    u, gate = np.split(linear(w, p + "in_proj", x), 2, axis=1)
    u = convolved(w, p, u)
    dt, b, c = np.split(linear(w, p + "x_proj", u), np.cumsum([w[p + "dt_proj.weight"].shape[1], state]), axis=1)
    dt, b, c = (rms(m, w[f"{p}{n}_layernorm.weight"], eps) for n, m in (("dt", dt), ("b", b), ("c", c)))
    dt = softplus(linear(w, p + "dt_proj", dt))
    a = -np.exp(w[p + "A_log"])
    s = np.zeros_like(a)
    y = np.empty_like(u)
    for t in range(len(x)):
        s = s * np.exp(dt[t][:, None] * a) + (dt[t] * u[t])[:, None] * b[t]
        y[t] = s @ c[t] + w[p + "D"] * u[t]
    return linear(w, p + "out_proj", y * silu(gate))


def swiglu(w, p, raw, x):
    before, after = raw.get("mlp_multipliers", (1.0, 1.0))
    y = linear(w, p + "up_proj", x) * silu(linear(w, p + "gate_proj", x) * before)
    return linear(w, p + "down_proj", y) * after


def fused_swiglu(first, second, x):
    gate, up = np.split(x @ first.T, 2, axis=1)
    return (silu(gate) * up) @ second.T


def relu2(w, p, x):
    return linear(w, p + "down_proj", np.maximum(linear(w, p + "up_proj", x), 0.0) ** 2)


def best(scores, k, margins):
    """Whether each is among the k largest of its row; `margins` gets by how much the last of them was."""
    order = np.sort(scores, axis=-1)
    if k < scores.shape[-1]:
        margins.append(float((order[..., -k] - order[..., -k - 1]).min()))
    return scores >= order[..., -k, None]


def mixed(weights, expert, x):
    """The sum over experts, of which only those with a weight count."""
    return sum(weights[:, e : e + 1] * expert(e) for e in range(weights.shape[1]))


def granite_moe(w, p, raw, x, margins):
    m = p + "block_sparse_moe."
    logits = x @ w[m + "router.layer.weight"].T
    chosen = best(logits, raw["num_experts_per_tok"], margins)
    weights = softmax(np.where(chosen, logits, -np.inf))
    first, second = w[m + "input_linear.weight"], w[m + "output_linear.weight"]
    return mixed(weights, lambda e: fused_swiglu(first[e], second[e], x), x)


def jamba_moe(w, p, raw, x, margins):
    weights = softmax(x @ w[p + "router.weight"].T)
    weights = np.where(best(weights, raw["num_experts_per_tok"], margins), weights, 0.0)
    return mixed(weights, lambda e: swiglu(w, f"{p}experts.{e}.", raw, x), x)


def nemotron_moe(w, p, raw, x, margins):
    scores = 1.0 / (1.0 + np.exp(-(x @ w[p + "gate.weight"].T)))
    choice = scores + w[p + "gate.e_score_correction_bias"]
    grouped = choice.reshape(len(x), raw["n_group"], -1)
    groups = best(np.sort(grouped, axis=-1)[..., -2:].sum(axis=-1), raw["topk_group"], margins)
    choice = np.where(groups[..., None], grouped, -np.inf).reshape(choice.shape)
    weights = np.where(best(choice, raw["num_experts_per_tok"], margins), scores, 0.0)
    if raw["norm_topk_prob"]:
        weights = weights / (weights.sum(axis=-1, keepdims=True) + 1e-20)
    latent = p + "fc1_latent_proj.weight" in w
    h = linear(w, p + "fc1_latent_proj", x) if latent else x
    h = mixed(weights * raw["routed_scaling_factor"], lambda e: relu2(w, f"{p}experts.{e}.", h), h)
    return (linear(w, p + "fc2_latent_proj", h) if latent else h) + relu2(w, p + "shared_experts.", x)


def llama_layer(w, p, raw, x, _):
    eps = raw["rms_norm_eps"]
    x = x + attention(w, p + "self_attn.", raw, rms(x, w[p + "input_layernorm.weight"], eps))
    return x + swiglu(w, p + "mlp.", raw, rms(x, w[p + "post_attention_layernorm.weight"], eps))


def granite_layer(w, p, raw, x, margins):
    eps, part = raw["rms_norm_eps"], raw["residual_multiplier"]
    h = rms(x, w[p + "input_layernorm.weight"], eps)
    mamba = p + "mamba.A_log" in w
    x = x + part * (mamba2(w, p + "mamba.", raw, h) if mamba else attention(w, p + "self_attn.", raw, h))
    h = rms(x, w[p + "post_attention_layernorm.weight"], eps)
    y = fused_swiglu(w[p + "shared_mlp.input_linear.weight"], w[p + "shared_mlp.output_linear.weight"], h)
    return x + part * (y + granite_moe(w, p, raw, h, margins) if raw["num_local_experts"] else y)


def falcon_layer(w, p, raw, x, _):
    eps = raw["rms_norm_eps"]
    h = rms(x, w[p + "input_layernorm.weight"], eps)
    y = raw["ssm_out_multiplier"] * mamba2(w, p + "mamba.", raw, h)
    z = attention(w, p + "self_attn.", raw, h * raw["attention_in_multiplier"])
    x = x + y + raw["attention_out_multiplier"] * z
    return x + swiglu(w, p + "feed_forward.", raw, rms(x, w[p + "pre_ff_layernorm.weight"], eps))


def bamba_layer(w, p, raw, x, margins):
    """Bamba's and Jamba's."""
    eps = raw["rms_norm_eps"]
    h = rms(x, w[p + "input_layernorm.weight"], eps)
    if p + "self_attn.q_proj.weight" in w:
        x = x + attention(w, p + "self_attn.", raw, h)
    else:
        x = x + (mamba2 if raw["model_type"] == "bamba" else mamba1)(w, p + "mamba.", raw, h)
    h = rms(x, w[p + "pre_ff_layernorm.weight"], eps)
    f = p + "feed_forward."
    return x + (jamba_moe(w, f, raw, h, margins) if f + "router.weight" in w else swiglu(w, f, raw, h))


def nemotron_layer(w, p, raw, x, margins):
    h = rms(x, w[p + "norm.weight"], raw["layer_norm_epsilon"])
    m = p + "mixer."
    if m + "A_log" in w:
        return x + mamba2(w, m, raw, h)
    if m + "q_proj.weight" in w:
        return x + attention(w, m, raw, h)
    return x + (nemotron_moe(w, m, raw, h, margins) if m + "gate.weight" in w else relu2(w, m, h))


LAYERS = {
    "llama": llama_layer, "qwen2": llama_layer, "qwen3": llama_layer, "mistral": llama_layer,
    "granitemoehybrid": granite_layer, "falcon_h1": falcon_layer, "nemotron_h": nemotron_layer,
    "bamba": bamba_layer, "jamba": bamba_layer,
}


def forward(w, raw, tokens):
    """Logits (L, V), and the least distance between an expert that was chosen and one that was not."""
    kind = raw["model_type"]
    top = "backbone." if kind == "nemotron_h" else "model."
    embedding = w[top + ("embeddings" if kind == "nemotron_h" else "embed_tokens") + ".weight"]
    norm = {"nemotron_h": "norm_f", "granitemoehybrid": "norm"}.get(kind)
    norm = norm or ("norm" if LAYERS[kind] is llama_layer else "final_layernorm")
    x = embedding[np.asarray(tokens)] * raw.get("embedding_multiplier", 1.0)
    layers = 1 + max(int(k.split(".layers.")[1].split(".")[0]) for k in w if ".layers." in k)
    margins = [math.inf]
    for i in range(layers):
        x = LAYERS[kind](w, f"{top}layers.{i}.", raw, x, margins)
    x = rms(x, w[f"{top}{norm}.weight"], raw["layer_norm_epsilon" if kind == "nemotron_h" else "rms_norm_eps"])
    logits = x @ w.get("lm_head.weight", embedding).T
    return logits * raw.get("lm_head_multiplier", 1.0) / raw.get("logits_scaling", 1.0), min(margins)
