#!/usr/bin/env python3
"""Writes what three of the Mamba-2 checkpoints see in the first tokens of their texts, from transformers' model.

    /tmp/goldens/bin/python tests/golden/make_explain.py              # all of them, into tests/golden/explain
    /tmp/goldens/bin/python tests/golden/make_explain.py dt-limit --out /tmp/x    # one, elsewhere

See make_goldens.py for the environment, README.md for what is in a file.
"""

import json

import numpy as np
import torch
import torch.nn.functional as F
from transformers import Mamba2ForCausalLM

import common
from common import HERE, compact

TOKENS = 20

# name -> the layer and the head that are written down
TABLE = {"odd-dims": (2, 4), "dt-limit": (1, 1), "codestral": (1, 13)}


def tensors(model, layer, tokens):
    """What the layer's mixer computes of some tokens, in float64: delta (L, H), x (L, H, P), B and C (L, H, N), and y (L, H, P) as
    transformers has it before gate and norm."""
    mixer, seen = model.backbone.layers[layer].mixer, {}
    handles = [
        mixer.in_proj.register_forward_hook(lambda _, args, out: seen.update(projected=out[0])),
        mixer.norm.register_forward_pre_hook(lambda _, args: seen.update(y=args[0][0])),
    ]
    model(torch.tensor([tokens]), use_cache=False)
    for handle in handles:
        handle.remove()
    c, length = model.config, len(tokens)
    heads, width, bc = c.num_heads, c.head_dim, c.n_groups * c.state_size
    d_ssm = heads * width
    _, xbc, dt = seen["projected"].split([d_ssm, d_ssm + 2 * bc, heads], dim=-1)
    xbc = F.silu(mixer.conv1d(xbc.T[None])[0, :, :length].T)
    x, b, cc = xbc.split([d_ssm, bc, bc], dim=-1)
    delta = F.softplus(dt + mixer.dt_bias).clamp(*map(float, c.time_step_limit))

    def a_head(v):
        return v.reshape(length, c.n_groups, -1).repeat_interleave(heads // c.n_groups, dim=1)

    return delta, x.reshape(length, heads, width), a_head(b), a_head(cc), seen["y"].reshape(length, heads, width)


def golden(name, place, out):
    layer, head = place
    folder = HERE / "mamba2" / name
    model = Mamba2ForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    tokens = json.loads((folder / "expected.json").read_text())["sequences"][0]["tokens"][:TOKENS]
    with torch.no_grad():
        delta, x, b, c, y = tensors(model, layer, tokens)
        mixer = model.backbone.layers[layer].mixer
        a, d = -torch.exp(mixer.A_log), mixer.D[:, None]
        # The matrix of the state space dual form (arXiv 2405.21060, section 3): of each head, M = L * (C B^T) delta with
        # L[t, s] = exp(sum of delta A over s < k <= t), by one exponential of a difference of sums.
        sums = torch.cumsum(delta * a, dim=0).T  # (H, L)
        passed = torch.exp(sums[:, :, None] - sums[:, None, :]).tril()
        m = (passed * torch.einsum("thn,shn->hts", c, b) * delta.T[:, None, :]).tril()
        # transformers' own output is its rows applied to x. It computes this part in float32.
        reproduced = torch.einsum("hts,shp->thp", m, x) + d * x
        off = float((reproduced - y).abs().max() / y.abs().max())
        assert off < 2e-6, f"{name}: the matrix gives transformers' y within {off}"
        for what, other in (("heads in another order", c.flip(1)), ("delta of the reading token", c * delta[:, :, None])):
            wrong = torch.einsum("hts,shp->thp", (passed * torch.einsum("thn,shn->hts", other, b)).tril(), x) + d * x
            assert float((wrong - y).abs().max() / y.abs().max()) > 1e-2, f"{name}: {what} would go unnoticed"
        states = torch.einsum("hts,sh,shp,shn->thpn", passed, delta, x, b)
        lower = np.tril_indices(TOKENS)

    def numbers(v):
        return compact(v.double().numpy().ravel())

    def lower_triangle(v):
        return compact(v.double().numpy()[lower])

    expected = {
        "source": {**common.transformers_source(), "dtype": "float64"},
        "layer": layer,
        "head": head,
        "tokens": tokens,
        "delta": numbers(delta.mean(dim=1)),
        "forget": numbers(torch.exp(delta * a).mean(dim=1)),
        "state_norm": numbers(states.square().sum(dim=(1, 2, 3)).sqrt()),
        "attention": lower_triangle(m.mean(dim=0)),
        "magnitude": lower_triangle(m.abs().mean(dim=0)),
        "head_delta": numbers(delta[:, head]),
        "head_forget": numbers(torch.exp(delta * a)[:, head]),
        "head_state_norm": numbers(states[:, head].square().sum(dim=(1, 2)).sqrt()),
        "head_attention": lower_triangle(m[head]),
        "head_u": numbers(x[:, head]),
        "head_y": numbers(y[:, head]),
    }
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{name}.json"
    file.write_text(json.dumps(expected, separators=(",", ":")) + "\n")
    size = file.stat().st_size
    print(f"{name:22} {size / 1000:6.1f} kB  within {off:.1e} of transformers' y", flush=True)
    return size


if __name__ == "__main__":
    common.main(__doc__, TABLE, golden, HERE / "explain")
