#!/usr/bin/env python3
"""Expected values of training: whole-model gradients and the losses of ten AdamW steps, by PyTorch's autograd in float64.

    /tmp/goldens/bin/python tests/golden/make_training.py      # into tests/golden/training; see make_goldens.py for the environment

`selective`: a two-layer MambaForCausalLM of transformers (its sequential eager path), the head tied. `lti`: the same layer with
selectivity off, which transformers does not have: `forward` below, checked against transformers where they can be compared, the head
not tied. Every number is drawn from numpy's default_rng; nothing was copied from anywhere.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file
from transformers import MambaConfig, MambaForCausalLM

OUT = Path(__file__).resolve().parent / "training"
D_MODEL, D_STATE, D_CONV, VOCAB, LAYERS = 26, 5, 4, 37, 2
D_INNER, RANK = 2 * D_MODEL, math.ceil(D_MODEL / 16)
BATCH, LENGTH, STEPS = 4, 19, 10
ADAM = dict(beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1, clip=1.0)
SCHEDULE = dict(peak=1e-2, warmup=3, steps=10, decay="cosine", floor=0.1)


def weights(rng, lti):
    """Every tensor so that it matters."""
    w = {"backbone.embeddings.weight": rng.standard_normal((VOCAB, D_MODEL)) * 1.5 / math.sqrt(D_MODEL)}
    for i in range(LAYERS):
        p = f"backbone.layers.{i}."
        m = p + "mixer."
        dt = np.exp(rng.uniform(math.log(0.03), math.log(0.8), D_INNER))
        w[p + "norm.weight"] = 0.6 + 0.9 * rng.uniform(size=D_MODEL)
        w[m + "in_proj.weight"] = rng.standard_normal((2 * D_INNER, D_MODEL)) * 1.3 / math.sqrt(D_MODEL)
        w[m + "conv1d.weight"] = rng.standard_normal((D_INNER, 1, D_CONV)) * 1.2 / math.sqrt(D_CONV)
        w[m + "conv1d.bias"] = rng.standard_normal(D_INNER) * 0.4
        if lti:
            w[m + "C"] = rng.standard_normal((D_INNER, D_STATE))
        else:
            x_proj = rng.standard_normal((RANK + 2 * D_STATE, D_INNER)) * 2.0 / math.sqrt(D_INNER)
            x_proj[RANK:] *= 1.2 / D_STATE**0.25
            w[m + "x_proj.weight"] = x_proj
            w[m + "dt_proj.weight"] = rng.standard_normal((D_INNER, RANK)) * 0.8 / math.sqrt(RANK)
        w[m + "dt_proj.bias"] = dt + np.log(-np.expm1(-dt))
        w[m + "A_log"] = np.log(0.15 + 4.0 * rng.uniform(size=(D_INNER, D_STATE)))
        w[m + "D"] = 0.5 + rng.uniform(size=D_INNER)
        w[m + "out_proj.weight"] = rng.standard_normal((D_MODEL, D_INNER)) * 1.5 / math.sqrt(D_INNER)
    w["backbone.norm_f.weight"] = 0.6 + 0.9 * rng.uniform(size=D_MODEL)
    if lti:
        w["lm_head.weight"] = rng.standard_normal((VOCAB, D_MODEL)) * 1.5 / math.sqrt(D_MODEL)
    # As both sides read them.
    return {k: torch.tensor(v.astype(np.float32).astype(np.float64), requires_grad=True) for k, v in w.items()}


def rms_norm(x, weight):
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-5) * weight


def forward(w, tokens, lti):
    """Logits (batch, L, vocab)."""
    r = w["backbone.embeddings.weight"][tokens]
    batch, length = tokens.shape
    for i in range(LAYERS):
        p = f"backbone.layers.{i}."
        m = p + "mixer."
        x, z = (rms_norm(r, w[p + "norm.weight"]) @ w[m + "in_proj.weight"].T).chunk(2, dim=-1)
        padded = F.pad(x.transpose(1, 2), (D_CONV - 1, 0))
        u = F.silu(F.conv1d(padded, w[m + "conv1d.weight"], w[m + "conv1d.bias"], groups=D_INNER)).transpose(1, 2)
        A = -torch.exp(w[m + "A_log"])
        if lti:
            delta = F.softplus(w[m + "dt_proj.bias"]).expand(batch, length, D_INNER)
            B = torch.ones(batch, length, D_STATE, dtype=torch.float64)
            C = w[m + "C"].expand(batch, length, D_INNER, D_STATE)
        else:
            dt, B, C = (u @ w[m + "x_proj.weight"].T).split([RANK, D_STATE, D_STATE], dim=-1)
            delta = F.softplus(dt @ w[m + "dt_proj.weight"].T + w[m + "dt_proj.bias"])
            C = C[:, :, None, :].expand(batch, length, D_INNER, D_STATE)
        h = torch.zeros(batch, D_INNER, D_STATE, dtype=torch.float64)
        ys = []
        for t in range(length):
            d = delta[:, t, :, None]
            h = torch.exp(d * A) * h + d * B[:, t, None, :] * u[:, t, :, None]
            ys.append((h * C[:, t]).sum(-1) + w[m + "D"] * u[:, t])
        y = torch.stack(ys, dim=1) * F.silu(z)
        r = r + y @ w[m + "out_proj.weight"].T
    head = w.get("lm_head.weight", w["backbone.embeddings.weight"])
    return rms_norm(r, w["backbone.norm_f.weight"]) @ head.T


def transformers_model(w):
    config = MambaConfig(hidden_size=D_MODEL, state_size=D_STATE, conv_kernel=D_CONV, time_step_rank=RANK, num_hidden_layers=LAYERS,
                         vocab_size=VOCAB, use_bias=False, tie_word_embeddings=True)
    model = MambaForCausalLM(config).double()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(w[name])
    model.tie_weights()
    return model


def batches(rng):
    tokens = rng.integers(0, VOCAB, (STEPS, BATCH, LENGTH))
    targets = rng.integers(0, VOCAB, (STEPS, BATCH, LENGTH))
    targets[rng.uniform(size=targets.shape) < 0.3] = -100  # what counts for nothing
    return torch.tensor(tokens), torch.tensor(targets)


def rate(step):
    s = SCHEDULE
    if step <= s["warmup"]:
        return s["peak"] * step / s["warmup"]
    done = (step - s["warmup"]) / (s["steps"] - s["warmup"])
    return s["peak"] * (s["floor"] + (1 - s["floor"]) * 0.5 * (1 + math.cos(math.pi * done)))


def loss_of(logits, targets):
    return F.cross_entropy(logits.reshape(-1, VOCAB), targets.reshape(-1), ignore_index=-100)


def make(name, seed, lti):
    rng = np.random.default_rng(seed)
    w = weights(rng, lti)
    tokens, targets = batches(rng)
    if lti:
        parameters, run = w, lambda t: forward(w, t, True)
    else:
        model = transformers_model(w)
        parameters, run = dict(model.named_parameters()), lambda t: model(t, use_cache=False).logits
        difference = (run(tokens[0]) - forward(w, tokens[0], False)).abs().max().item()
        assert difference < 1e-4, difference  # transformers computes its norms in float32
    stored = {f"weight.{k}": v.detach().numpy().astype(np.float32) for k, v in w.items()}

    # Gradients by the float64 forward: transformers' norms are float32 whatever the model is. Its own gradients agree.
    loss = loss_of(forward(w, tokens[0], lti), targets[0])
    exact = dict(zip(w, torch.autograd.grad(loss, list(w.values()))))
    stored |= {f"gradient.{k}": g.numpy().astype(np.float32) for k, g in exact.items()}
    first = loss.item()
    loss = loss_of(run(tokens[0]), targets[0])
    theirs = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values()))))
    for k, g in exact.items():
        worst = ((g - theirs[k]).abs().max() / g.abs().max()).item()
        assert worst < 1e-4, (k, worst)
        assert g.abs().max() > 1e-4, k

    def decays(k, v):
        return v.ndim > 1 and not k.endswith((".A_log", ".C"))

    groups = [
        dict(params=[v for k, v in parameters.items() if decays(k, v)], weight_decay=ADAM["weight_decay"]),
        dict(params=[v for k, v in parameters.items() if not decays(k, v)], weight_decay=0.0),
    ]
    adam = torch.optim.AdamW(groups, lr=1.0, betas=(ADAM["beta1"], ADAM["beta2"]), eps=ADAM["eps"])
    losses, norms = [], []
    for step in range(STEPS):
        for group in adam.param_groups:
            group["lr"] = rate(step + 1)
        adam.zero_grad()
        loss = loss_of(run(tokens[step]), targets[step])
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(list(parameters.values()), ADAM["clip"]).item())
        adam.step()
        losses.append(loss.item())
    assert abs(losses[0] - first) < 1e-5
    assert max(norms) > ADAM["clip"], "nothing was clipped"
    last = {k: v.detach().numpy().astype(np.float32) for k, v in parameters.items()}
    stored |= {f"after.{k}": v for k, v in last.items()}

    OUT.mkdir(exist_ok=True)
    save_file({k: np.ascontiguousarray(v) for k, v in stored.items()}, OUT / f"{name}.safetensors")
    expected = dict(
        shape=dict(n_layer=LAYERS, d_model=D_MODEL, d_state=D_STATE, d_conv=D_CONV, expand=2, tied=not lti, lti=lti),
        vocab_size=VOCAB, batch=BATCH, length=LENGTH, optimiser=ADAM, schedule=SCHEDULE,
        tokens=tokens.reshape(STEPS, -1).tolist(), targets=targets.reshape(STEPS, -1).tolist(), losses=losses, norms=norms,
    )
    (OUT / f"{name}.json").write_text(json.dumps(expected) + "\n")
    print(name, [round(x, 4) for x in losses], [round(x, 3) for x in norms])


if __name__ == "__main__":
    torch.set_num_threads(1)
    make("selective", 101, False)
    make("lti", 102, True)
