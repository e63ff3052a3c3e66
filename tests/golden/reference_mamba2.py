"""The Mamba-2 forward pass in numpy, written from the paper's equations (Dao and Gu 2024), token by token.

It shares no code with transformers or mamba-ssm, and knows mamba-ssm's variants that transformers lacks: the norm
before the gate or none at all, a D for each channel, and layers of which a part is a gated MLP (d_ssm below d_inner).
It computes in the type of the weights it is given: float64, or float32 to see how much that matters.
"""

import math
from dataclasses import dataclass

import numpy as np

from reference import changed, rms_norm, silu, softplus, suffixes, swap, zero_rows

GATE_FIRST, NORM_FIRST, NO_NORM = "gate first", "norm first", "none"


@dataclass
class Shape:
    """What a config.json says, and of the tensors' shapes what it leaves open."""

    d_model: int
    n_layer: int
    vocab_size: int  # rows of the embedding
    d_inner: int  # what out_proj takes
    d_ssm: int  # what of it is the state-space model's: n_heads * head_dim
    head_dim: int
    n_groups: int
    d_state: int
    d_conv: int
    eps: float
    gate_eps: float
    dt_limit: tuple
    norm: str
    tied: bool

    @property
    def n_heads(self):
        return self.d_ssm // self.head_dim

    @property
    def d_mlp(self):
        return self.d_inner - self.d_ssm

    @property
    def bc(self):
        return self.n_groups * self.d_state

    def rows(self):
        """Pieces of in_proj's output, in order: name -> slice."""
        sizes = {"z0": self.d_mlp, "x0": self.d_mlp, "z": self.d_ssm, "x": self.d_ssm, "B": self.bc, "C": self.bc,
                 "dt": self.n_heads}
        pieces, start = {}, 0
        for name, size in sizes.items():
            pieces[name] = slice(start, start + size)
            start += size
        return pieces


def number(value):
    """A number of config.json: infinity is written `Infinity`, which Python reads, or {"__float__": "Infinity"}."""
    return float(value["__float__"]) if isinstance(value, dict) else float(value)


def shape_of(config, vocab_rows):
    """The shape that a config.json (as Python reads it) means, in either layout."""
    if config.get("model_type") == "mamba2":
        d_inner = config["hidden_size"] * config["expand"]
        assert d_inner == config["num_heads"] * config["head_dim"]
        eps = config["layer_norm_epsilon"]
        return Shape(
            d_model=config["hidden_size"], n_layer=config["num_hidden_layers"], vocab_size=vocab_rows, d_inner=d_inner,
            d_ssm=d_inner, head_dim=config["head_dim"], n_groups=config["n_groups"], d_state=config["state_size"],
            d_conv=config["conv_kernel"], eps=eps, gate_eps=eps,
            dt_limit=tuple(map(number, config.get("time_step_limit", (0.0, math.inf)))),
            norm=GATE_FIRST,  # whatever `norm_before_gate` and `rms_norm` say: transformers reads neither
            tied=config["tie_word_embeddings"],
        )
    ssm = dict(config["ssm_cfg"])
    assert ssm.pop("layer") == "Mamba2" and config["rms_norm"] and not config.get("d_intermediate")
    d_inner = config["d_model"] * ssm.get("expand", 2)
    norm = (NORM_FIRST if ssm.get("norm_before_gate") else GATE_FIRST) if ssm.get("rmsnorm", True) else NO_NORM
    return Shape(
        d_model=config["d_model"], n_layer=config["n_layer"], vocab_size=vocab_rows, d_inner=d_inner,
        d_ssm=ssm.get("d_ssm") or d_inner, head_dim=ssm.get("headdim", 64), n_groups=ssm.get("ngroups", 1),
        d_state=ssm.get("d_state", 128), d_conv=ssm.get("d_conv", 4), eps=1e-5, gate_eps=1e-5,
        dt_limit=tuple(map(number, ssm.get("dt_limit", (0.0, math.inf)))), norm=norm, tied=config["tie_embeddings"],
    )


def forward(w, s, tokens, wrong=None):
    """Logits (L, vocab_size) and, after the last token, conv_state (n_layer, d_conv, conv channels), oldest first, and
    ssm_state (n_layer, n_heads, head_dim, d_state).

    `w` maps Hugging Face names to arrays, `s` is a Shape. `wrong` names one of `mistakes(s)`, to show that the goldens
    notice it.
    """
    r = w["backbone.embeddings.weight"][tokens]  # (L, d_model)
    length, h_count, p_count, n = len(tokens), s.n_heads, s.head_dim, s.d_state
    conv_states, ssm_states = [], []
    # The group of each head: consecutive heads share one.
    group = np.arange(h_count) // (h_count // s.n_groups)
    if wrong == "heads interleaved over groups":
        group = np.arange(h_count) % s.n_groups
    if wrong == "one group for all heads":
        group = np.zeros(h_count, dtype=int)
    for layer in range(s.n_layer):
        p = f"backbone.layers.{layer}."
        m = p + "mixer."
        projected = (rms_norm(r, s.eps) * w[p + "norm.weight"]) @ w[m + "in_proj.weight"].T
        if m + "in_proj.bias" in w:
            projected = projected + w[m + "in_proj.bias"]
        pieces = s.rows()
        z0, x0, z, dt = (projected[:, pieces[k]] for k in ("z0", "x0", "z", "dt"))
        assert projected.shape[1] == pieces["dt"].stop

        xbc = projected[:, pieces["x"].start : pieces["C"].stop]
        kernel = w[m + "conv1d.weight"][:, 0, :]  # (channels, d_conv)
        channels, d_conv = kernel.shape
        padded = np.concatenate([np.zeros((d_conv, channels), r.dtype), xbc])  # padded[t + d_conv] = xbc[t]
        conv_states.append(padded[length:])  # the last d_conv inputs, oldest first
        u = sum(padded[1 + k : 1 + k + length] * kernel[:, k] for k in range(d_conv))
        if m + "conv1d.bias" in w:
            u = u + w[m + "conv1d.bias"]
        u = silu(u)
        if wrong == "B and C not convolved":
            u = np.concatenate([u[:, : s.d_ssm], xbc[:, s.d_ssm :]], axis=1)
        x = u[:, : s.d_ssm].reshape(length, h_count, p_count)
        if wrong == "channels interleaved over heads":
            x = u[:, : s.d_ssm].reshape(length, p_count, h_count).transpose(0, 2, 1)
        B, C = (v.reshape(length, s.n_groups, n) for v in np.split(u[:, s.d_ssm :], 2, axis=1))

        if wrong == "clamp before softplus":
            delta = softplus(np.clip(dt + w[m + "dt_bias"], *s.dt_limit))
        else:
            delta = softplus(dt + w[m + "dt_bias"])  # (L, n_heads)
            low = 0.0 if wrong == "no lower limit" else s.dt_limit[0]
            high = math.inf if wrong == "no upper limit" else s.dt_limit[1]
            delta = np.clip(delta, low, high)
        A = -np.exp(w[m + "A_log"])  # (n_heads,)
        D = w[m + "D"]
        D = D[:, None] if len(D) == h_count else D.reshape(h_count, p_count)
        if wrong == "the first D of each head":
            D = D[:, :1]
        state = np.zeros((h_count, p_count, n), r.dtype)
        y = np.empty_like(x)
        for t in range(length):
            dA = np.exp(delta[t] * A)
            dB = (dA - 1.0) / A if wrong == "zero-order hold for B" else delta[t]
            state = dA[:, None, None] * state + (dB[:, None] * x[t])[:, :, None] * B[t][group][:, None, :]
            y[t] = np.einsum("hpn,hn->hp", state, C[t][group]) + D * x[t]
        ssm_states.append(state)

        y = y.reshape(length, s.d_ssm)
        groups = 1 if wrong == "norm over all groups at once" else s.n_groups
        norm = s.norm
        if wrong == "gate and norm in the other order":
            norm = {GATE_FIRST: NORM_FIRST, NORM_FIRST: GATE_FIRST}[norm]
        if wrong == "no norm":
            norm = NO_NORM
        if norm != NORM_FIRST:
            y = y * silu(z)
        if norm != NO_NORM:
            weight = w.get(m + "norm.weight", np.ones(s.d_ssm, r.dtype))
            y = rms_norm(y.reshape(length, groups, -1), s.gate_eps).reshape(length, s.d_ssm) * weight
        if norm == NORM_FIRST:
            y = y * silu(z)
        if s.d_mlp:
            mlp = silu(x0) * z0 if wrong == "z0 and x0 swapped" else silu(z0) * x0
            y = np.concatenate([y, mlp] if wrong == "the MLP behind" else [mlp, y], axis=1)
        out = y @ w[m + "out_proj.weight"].T
        if m + "out_proj.bias" in w:
            out = out + w[m + "out_proj.bias"]
        r = r + out
    out = rms_norm(r, s.eps) * w["backbone.norm_f.weight"]
    head = w["backbone.embeddings.weight"] if s.tied else w["lm_head.weight"]
    return out @ head.T, np.stack(conv_states), np.stack(ssm_states)


def mistakes(w, s):
    """What `forward` can be told to do wrong and should show with these weights."""
    yield from ("zero-order hold for B", "B and C not convolved")
    if s.dt_limit[0] > 0.0:
        yield "no lower limit"
    if s.dt_limit[1] < math.inf:
        yield "no upper limit"
    if s.dt_limit != (0.0, math.inf):
        yield "clamp before softplus"
    if s.n_heads > 1:
        yield "channels interleaved over heads"
    if s.n_groups > 1:
        yield "one group for all heads"
        if s.n_groups < s.n_heads:
            yield "heads interleaved over groups"
        if s.norm != NO_NORM:
            yield "norm over all groups at once"
    if s.norm != NO_NORM:
        yield from ("gate and norm in the other order", "no norm")
    if len(w["backbone.layers.0.mixer.D"]) > s.n_heads:
        yield "the first D of each head"
    if s.d_mlp:
        yield from ("z0 and x0 swapped", "the MLP behind")


def variants(w, s):
    """(what, weights) for each way of getting a tensor wrong, all layers at once, as reference.variants."""
    rows = s.rows()
    z, x, B, C, dt = (rows[k] for k in ("z", "x", "B", "C", "dt"))
    for suffix in suffixes(w):
        if suffix == "lm_head.weight" and s.tied:
            continue
        cases = [("zeroed", lambda v: np.zeros_like(v)), ("rolled along axis 0", lambda v: np.roll(v, 1, 0))]
        if suffix not in ("backbone.embeddings.weight", "lm_head.weight"):
            cases.append(("scaled by 1.1", lambda v: v * 1.1))
        if suffix in ("in_proj.weight", "out_proj.weight"):
            cases.append(("rolled along axis 1", lambda v: np.roll(v, 1, 1)))
        if suffix in ("in_proj.weight", "in_proj.bias"):
            cases += [
                ("z and x swapped", lambda v: swap(v, z.start, x.start, x.stop)),
                ("B and C swapped", lambda v: swap(v, B.start, C.start, C.stop)),
                ("x behind B and C", lambda v: swap(v, x.start, B.start, C.stop)),
                ("dt in front", lambda v: swap(v, 0, dt.start, dt.stop)),
            ]
            if s.d_mlp:
                cases += [
                    ("z0 and x0 swapped", lambda v: swap(v, 0, s.d_mlp, 2 * s.d_mlp)),
                    ("z0 and x0 behind z", lambda v: swap(v, 0, z.start, z.stop)),
                ]
            if suffix == "in_proj.weight":
                for name, part in rows.items():
                    if part.start < part.stop:
                        cases.append((f"rows of {name} zeroed", lambda v, part=part: zero_rows(v, part)))
        if suffix in ("conv1d.weight", "conv1d.bias"):
            cases.append(("B and C swapped", lambda v: swap(v, s.d_ssm, s.d_ssm + s.bc, s.d_ssm + 2 * s.bc)))
            cases.append(("x behind B and C", lambda v: swap(v, 0, s.d_ssm, s.d_ssm + 2 * s.bc)))
        if suffix == "conv1d.weight":
            cases.append(("reversed in time", lambda v: v[:, :, ::-1].copy()))
        for what, f in cases:
            new = changed(w, suffix, f)
            if new is not None:
                yield f"{suffix} {what}", new
