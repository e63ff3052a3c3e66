"""What make_goldens.py and make_mamba2.py share: how the sequences of expected.json are drawn, and what is asserted."""

import argparse
import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import torch
import transformers

HERE = Path(__file__).resolve().parent
LENGTHS = (37, 1, 130)  # tokens of each sequence
GREEDY = 16  # tokens of the greedy continuation
MIN_MARGIN = 4e-3  # between the best and the second-best logit wherever an argmax is written down
MIN_EFFECT = 1e-2  # on some logit, of each wrong treatment of a tensor
MAX_F32_ERROR = 3e-5  # of float32 logits against float64


def margins(logits):
    top = np.partition(logits, -2, axis=-1)
    return top[..., -1] - top[..., -2]


def prefill(model, tokens):
    """transformers' logits (1, L, V), its cache, and each layer's final states in our layout."""
    out = model(torch.tensor([tokens]), use_cache=True)
    cache = out.cache_params
    layers = range(model.config.num_hidden_layers)
    # transformers keeps (batch, channels, d_conv), newest last; ours is (d_conv, channels), oldest first.
    conv = np.stack([cache.get_conv_state(i, state_idx=0)[0].T.clone().numpy() for i in layers])
    ssm = np.stack([cache.get_recurrent_state(i, state_idx=0)[0].clone().numpy() for i in layers])
    return out.logits, cache, conv, ssm


def nll_sum(logits, tokens):
    """Sum over positions of -log p(next token), natural logarithm; 0 for one token."""
    logits = logits.astype(np.float64)[:-1]
    peak = logits.max(axis=-1, keepdims=True)
    log_p = logits - peak - np.log(np.exp(logits - peak).sum(axis=-1, keepdims=True))
    return float(-log_p[np.arange(len(tokens) - 1), tokens[1:]].sum())


def compact(value):
    """Seven significant digits, enough to tell neighbouring float32 logits apart within every tolerance used."""
    if isinstance(value, np.ndarray):
        return compact(value.tolist())
    if isinstance(value, list):
        return [compact(v) for v in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value


def usual_weight(name, normal, uniform, d_model, d_inner, d_conv, tied, embedding):
    """The parameters that every Mamba has, from random numbers of their shape so that each matters; None for others."""
    if name.endswith("embeddings.weight"):
        return normal * (1.5 / math.sqrt(d_model) if tied else embedding)
    if name.endswith("lm_head.weight"):
        return normal * 1.5 / math.sqrt(d_model)
    if name.endswith(("norm.weight", "norm_f.weight")):
        return 0.6 + 0.9 * uniform
    if name.endswith("in_proj.weight"):
        return normal * 1.3 / math.sqrt(d_model)
    if name.endswith(("in_proj.bias", "out_proj.bias", "conv1d.bias")):
        return normal * 0.4
    if name.endswith("conv1d.weight"):
        return normal * 1.2 / math.sqrt(d_conv)
    if name.endswith("mixer.D"):
        return 0.5 + uniform
    if name.endswith("out_proj.weight"):
        return normal * 1.5 / math.sqrt(d_inner)
    return None


def sequences(name, seed, vocab, run, check):
    """The sequences of expected.json, and what they have in common: the least margin and the largest error of float32.

    `run(tokens)` gives what is written down: logits (L, V), conv_state, ssm_state, the greedy tokens and the least
    margin of these.
    `check(tokens)` gives logits and states again by another way, of which one is float32 and the other float64.
    """
    entries, error, margin = [], 0.0, math.inf
    for index, length in enumerate(LENGTHS):
        # Tokens are drawn again when an argmax is a near tie, which rounding could decide either way, or when some
        # activation is so small beside its summands that float32 itself is uncertain: what is left can be held to tight
        # tolerances.
        for attempt in range(1000):
            rng = np.random.default_rng([seed, index, attempt])
            tokens = rng.integers(0, vocab, length).tolist()
            logits, conv, ssm, greedy, greedy_margin = run(tokens)
            smallest = min(greedy_margin, float(margins(logits).min()))
            if smallest < MIN_MARGIN:
                continue
            other, other_conv, other_ssm = check(tokens)
            difference = float(np.abs(other - logits).max())
            assert difference < 1e-3, f"{name}: two ways to compute the logits disagree by {difference}"
            pairs = ((conv, other_conv), (ssm, other_ssm))
            if difference < MAX_F32_ERROR and all(np.allclose(a, b, rtol=1e-5, atol=2e-5) for a, b in pairs):
                break
        else:
            raise SystemExit(f"{name}: no suitable tokens")
        margin, error = min(margin, smallest), max(error, difference)
        positions = [length // 5, length - 2] if length > 1 else []
        entry = {
            "tokens": tokens,
            "argmax": logits.argmax(axis=-1).tolist(),
            "last_logits": compact(logits[-1]),
            "logits_at": {str(t): compact(logits[t]) for t in positions},
            "nll_sum": compact(nll_sum(logits, tokens)),
            "greedy": greedy,
        }
        if index < 2:
            entry["conv_state"] = compact(conv.ravel())
            if ssm.size < (5000, 1500)[index]:  # the larger ones are left out for size
                entry["ssm_state"] = compact(ssm.ravel())
        entries.append(entry)
    std = float(logits.std())
    assert 0.7 < std < 4.0, f"{name}: logits have a standard deviation of {std}"
    return entries, {"std": std, "margin": margin, "error": error}


def largest_effects(name, base, others):
    """Largest change of a last logit for each wrong treatment; stops where one could go unnoticed."""
    effects = {what: float(np.abs(logits - base)[-1].max()) for what, logits in others}
    for what, effect in effects.items():
        assert effect > MIN_EFFECT, f"{name}: {what} moves the last logits by {effect} only"
    return effects


def write_expected(name, folder, source, config, entries, common, effects):
    """Writes expected.json and says how it went; returns the folder's bytes."""
    expected = {
        "source": source,
        "config": config,
        "min_margin": float(f"{common['margin']:.2g}"),
        "f64_max_abs_diff": float(f"{common['error']:.2g}"),
        "sequences": entries,
    }
    (folder / "expected.json").write_text(json.dumps(expected, separators=(",", ":")) + "\n")
    for file in folder.iterdir():
        file.chmod(0o644)
    size = sum(f.stat().st_size for f in folder.iterdir())
    weakest = sorted(effects.items(), key=lambda e: e[1])[:3]
    print(f"{name:22} {size / 1000:6.1f} kB  logits std {common['std']:.2f}  margin {common['margin']:.4f}  "
          f"f32 error {common['error']:.1e}  weakest: {', '.join(f'{w} {e:.3f}' for w, e in weakest)}", flush=True)
    return size


def transformers_source():
    torch_version = torch.__version__.split("+")[0]
    return {"transformers": transformers.__version__, "torch": torch_version, "device": "cpu", "dtype": "float32"}


def main(doc, table, golden, out):
    """Writes the checkpoints named on the command line, or all of `table`, by `golden(name, recipe, folder)`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="checkpoints to write (default: all)")
    parser.add_argument("--out", type=Path, default=out)
    args = parser.parse_args()
    for package in ("kernels", "mamba_ssm", "causal_conv1d", "mambapy"):
        if importlib.util.find_spec(package):
            raise SystemExit(f"{package} is installed: transformers would not take its own sequential path")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    unknown = set(args.names) - set(table)
    if unknown:
        raise SystemExit(f"no such checkpoint: {', '.join(sorted(unknown))}; there are {', '.join(table)}")
    total = sum(golden(name, table[name], args.out) for name in args.names or table)
    print(f"total {total / 1000:.0f} kB")
