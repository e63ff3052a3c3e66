"""The Mamba-1 forward pass in numpy float64, written from the paper's equations (Gu and Dao 2023, algorithm 2).

It shares no code with transformers. make_goldens.py uses it twice: to check that the expected values are right to well under the
tests' tolerances, and to measure how far a wrong treatment of each tensor moves the logits.
"""

import numpy as np


def rms_norm(x, eps):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)


def softplus(x):
    return np.logaddexp(0.0, x)


def silu(x):
    return x / (1.0 + np.exp(-x))


def forward(w, cfg, tokens, zoh=False):
    """Logits (L, vocab_size) and, after the last token, conv_state (n_layer, d_conv, d_inner) and ssm_state (n_layer, d_inner, d_state).

    `w` maps Hugging Face names to float64 arrays; `cfg` is a transformers configuration.
    `zoh` discretises B by zero-order hold: wrong for every published checkpoint, and here to show that the goldens notice.
    """
    r = w["backbone.embeddings.weight"][tokens]  # (L, d_model)
    length = len(tokens)
    falcon = cfg.model_type == "falcon_mamba"
    rank, n = cfg.time_step_rank, cfg.state_size
    conv_states, ssm_states = [], []
    for layer in range(cfg.num_hidden_layers):
        p = f"backbone.layers.{layer}."
        m = p + "mixer."
        xz = (rms_norm(r, cfg.layer_norm_epsilon) * w[p + "norm.weight"]) @ w[m + "in_proj.weight"].T
        xz = xz + w.get(m + "in_proj.bias", 0.0)
        d_inner = xz.shape[1] // 2
        x, z = xz[:, :d_inner], xz[:, d_inner:]

        kernel = w[m + "conv1d.weight"][:, 0, :]  # (d_inner, d_conv)
        d_conv = kernel.shape[1]
        padded = np.concatenate([np.zeros((d_conv, d_inner)), x])  # padded[t + d_conv] = x[t]
        u = sum(padded[1 + k : 1 + k + length] * kernel[:, k] for k in range(d_conv))
        u = silu(u + w.get(m + "conv1d.bias", 0.0))
        conv_states.append(padded[length:])  # the last d_conv inputs, oldest first

        x_dbl = u @ w[m + "x_proj.weight"].T
        dt, B, C = x_dbl[:, :rank], x_dbl[:, rank : rank + n], x_dbl[:, rank + n :]
        if falcon:
            dt, B, C = (rms_norm(v, cfg.mixer_rms_eps) for v in (dt, B, C))
        delta = softplus(dt @ w[m + "dt_proj.weight"].T + w[m + "dt_proj.bias"])  # (L, d_inner)
        A = -np.exp(w[m + "A_log"])  # (d_inner, d_state)
        h = np.zeros_like(A)
        y = np.empty_like(u)
        for t in range(length):
            dA = np.exp(delta[t][:, None] * A)
            dB = (dA - 1.0) / A * B[t] if zoh else delta[t][:, None] * B[t]
            h = dA * h + dB * u[t][:, None]
            y[t] = h @ C[t] + w[m + "D"] * u[t]
        ssm_states.append(h)
        r = r + (y * silu(z)) @ w[m + "out_proj.weight"].T + w.get(m + "out_proj.bias", 0.0)
    out = rms_norm(r, cfg.layer_norm_epsilon) * w["backbone.norm_f.weight"]
    head = w["backbone.embeddings.weight"] if cfg.tie_word_embeddings else w["lm_head.weight"]
    return out @ head.T, np.stack(conv_states), np.stack(ssm_states)


def suffixes(w):
    """The parameters' names, without the layer and `mixer.`."""
    return sorted({k.split(".", 3)[3].removeprefix("mixer.") if k.startswith("backbone.layers.") else k for k in w})


def changed(w, suffix, f):
    """The weights with f applied to every parameter of that name, all layers at once; None where that changes nothing."""
    new, differs = dict(w), False
    for k, v in w.items():
        if k == suffix or (k.startswith("backbone.layers.") and k.split(".", 3)[3].removeprefix("mixer.") == suffix):
            new[k] = f(v)
            differs |= not np.array_equal(new[k], v)
    return new if differs else None


def swap(v, start, middle, stop):
    """The rows of v with [start, middle) and [middle, stop) in the other order."""
    return np.concatenate([v[:start], v[middle:stop], v[start:middle], v[stop:]])


def zero_rows(v, rows):
    v = v.copy()
    v[rows] = 0.0
    return v


def variants(w, cfg):
    """(what, weights) for each way of getting a tensor wrong: zeroed, rolled along an axis, two halves swapped.

    Layers are altered all at once, so that one class of tensor is one case. A change that changes nothing is left out.
    """
    rank, n = cfg.time_step_rank, cfg.state_size
    for suffix in suffixes(w):
        if suffix == "lm_head.weight" and cfg.tie_word_embeddings:
            continue
        cases = [("zeroed", lambda v: np.zeros_like(v)), ("rolled along axis 0", lambda v: np.roll(v, 1, 0))]
        invariant = cfg.model_type == "falcon_mamba" and suffix == "x_proj.weight"  # its output is normalised
        if suffix not in ("backbone.embeddings.weight", "lm_head.weight") and not invariant:
            cases.append(("scaled by 1.1", lambda v: v * 1.1))
        if suffix in ("in_proj.weight", "x_proj.weight", "dt_proj.weight", "A_log", "out_proj.weight"):
            cases.append(("rolled along axis 1", lambda v: np.roll(v, 1, 1)))
        if suffix in ("in_proj.weight", "in_proj.bias"):
            cases.append(("x and z swapped", lambda v: swap(v, 0, len(v) // 2, len(v))))
        if suffix == "x_proj.weight":
            cases.append(("B and C swapped", lambda v: swap(v, rank, rank + n, rank + 2 * n)))
            for part, rows in (("dt", slice(0, rank)), ("B", slice(rank, rank + n)), ("C", slice(rank + n, None))):
                cases.append((f"rows of {part} zeroed", lambda v, rows=rows: zero_rows(v, rows)))
        if suffix == "conv1d.weight":
            cases.append(("reversed in time", lambda v: v[:, :, ::-1].copy()))
        for what, f in cases:
            new = changed(w, suffix, f)
            if new is not None:
                yield f"{suffix} {what}", new
