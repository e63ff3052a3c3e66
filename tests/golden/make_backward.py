"""Writes tests/golden/backward/*.safetensors: gradients of every kernel of training by PyTorch's autograd in float64.

Inputs are drawn in float32 (so that kernels get the very numbers) and stored so; gradients are stored as float64. Names: `x` an input,
`grad_x` the gradient of L = sum(output * grad_output) with respect to it. Sizes are in the file's metadata.

    /tmp/goldens/bin/python tests/golden/make_backward.py
"""

import argparse
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent


class Case:
    def __init__(self, seed, **sizes):
        self.random = torch.Generator().manual_seed(seed)
        self.sizes, self.tensors, self.inputs = sizes, {}, {}

    def input(self, name, *shape, low=-1.0, high=1.0, log=False):
        """A leaf, uniform over (low, high), evenly in its logarithm with `log`."""
        unit = torch.rand(*shape, generator=self.random, dtype=torch.float64)
        if log:
            low, high = math.log(low), math.log(high)
        value = low + (high - low) * unit
        return self.leaf(name, value.exp() if log else value)

    def leaf(self, name, value):
        value = value.float()
        self.tensors[name] = value
        self.inputs[name] = value.double().requires_grad_()
        return self.inputs[name]

    def integers(self, name, values):
        """Kept as they are; safetensors has no u32 of torch's, so int32 (-1 is 0xffffffff)."""
        self.tensors[name] = values.to(torch.int32)
        return values

    def output(self, **outputs):
        """Draws a gradient for each output, and takes those of all inputs."""
        loss = 0.0
        for name, value in outputs.items():
            self.tensors[name] = value.detach().clone()
            grad = (torch.rand(value.shape, generator=self.random, dtype=torch.float64) * 2 - 1).float()
            self.tensors[f"grad_{name}"] = grad
            loss = loss + (value * grad.double()).sum()
        self.backward(loss)

    def backward(self, loss):
        loss.backward()
        for name, value in self.inputs.items():
            self.tensors[f"grad_{name}"] = value.grad.clone()

    def save(self, folder, name):
        tensors = {k: v.contiguous() for k, v in self.tensors.items()}
        path = folder / f"{name}.safetensors"
        save_file(tensors, path, metadata={k: str(v) for k, v in self.sizes.items()})
        path.chmod(0o644)
        print(f"{name:22} {path.stat().st_size / 1000:6.1f} kB")


def linear(seed, l, k, n):
    case = Case(seed, l=l, k=k, n=n)
    x, w, bias = case.input("x", l, k), case.input("w", n, k), case.input("bias", n)
    case.output(y=x @ w.T + bias)
    return case


def rms_norm(seed, rows, d, eps):
    case = Case(seed, rows=rows, d=d, eps=eps)
    eps = float(torch.tensor(eps, dtype=torch.float32))
    residual, hidden = case.input("residual", rows, d, low=-2, high=2), case.input("hidden", rows, d)
    weight = case.input("weight", d, low=0.5, high=2)
    total = residual + hidden
    # The residual stream goes on above: its gradient is part of the sum's.
    case.output(y=total * torch.rsqrt(total.pow(2).mean(-1, keepdim=True) + eps) * weight, sum=total + 0)
    return case


def cross_entropy(seed, rows, vocab_size, ignored, smoothing=0.0):
    case = Case(seed, rows=rows, vocab_size=vocab_size)
    logits = case.input("logits", rows, vocab_size, low=-8, high=8)
    targets = torch.randint(vocab_size, (rows,), generator=case.random)
    targets[ignored] = -1
    case.integers("targets", targets)
    kind = {"ignore_index": -1, "label_smoothing": smoothing}
    loss = F.cross_entropy(logits, targets, **kind)
    case.tensors["nll"] = F.cross_entropy(logits.detach(), targets, reduction="none", **kind)
    case.tensors["scale"] = torch.tensor([1.0 / int((targets >= 0).sum())], dtype=torch.float64)
    case.backward(loss)
    return case


def embedding(seed, vocab_size, d_model, rows):
    case = Case(seed, vocab_size=vocab_size, d_model=d_model, rows=rows)
    tokens = case.integers("tokens", torch.randint(vocab_size, (rows,), generator=case.random))
    case.output(residual=F.embedding(tokens, case.input("table", vocab_size, d_model)))
    return case


def conv1d(seed, batch, l, d_inner, d_conv, bias):
    case = Case(seed, batch=batch, l=l, d_inner=d_inner, d_conv=d_conv)
    x = case.input("x", batch, l, d_inner, low=-2, high=2)
    weight = case.input("weight", d_inner, d_conv)
    b = case.input("bias", d_inner) if bias else None
    out = F.conv1d(x.transpose(1, 2), weight[:, None, :], b, padding=d_conv - 1, groups=d_inner)[..., :l]
    case.output(u=F.silu(out).transpose(1, 2))
    return case


def scan(seed, batch, l, d_inner, d_state, lti):
    case = Case(seed, batch=batch, l=l, d_inner=d_inner, d_state=d_state, lti=int(lti))
    u, z = case.input("u", batch, l, d_inner), case.input("z", batch, l, d_inner, low=-2, high=2)
    # Steps like a trained model's, and a few very large and very small ones.
    dt = case.input("dt", *((d_inner,) if lti else (batch, l, d_inner)), low=-7.0, high=3.0)
    dt_bias = case.input("dt_bias", d_inner)
    a_log = case.leaf("a_log", torch.log(torch.arange(1, d_state + 1).double()).repeat(d_inner, 1)
                      + torch.rand(d_inner, d_state, generator=case.random, dtype=torch.float64) - 0.5)
    c = case.input("c", *((d_inner, d_state) if lti else (batch, l, d_state)))
    b = torch.ones(batch, l, d_state, dtype=torch.float64) if lti else case.input("b", batch, l, d_state)
    skip, h = case.input("d", d_inner), case.input("h", batch, d_inner, d_state)
    delta = F.softplus(dt + dt_bias).expand(batch, l, d_inner)
    a = -torch.exp(a_log)
    rows = []
    for t in range(l):
        step = delta[:, t, :, None]
        h = torch.exp(step * a) * h + step * b[:, t, None, :] * u[:, t, :, None]
        s = (h * (c if lti else c[:, t, None, :])).sum(-1)
        rows.append((s + skip * u[:, t]) * F.silu(z[:, t]))
    case.output(y=torch.stack(rows, 1), last=h)
    return case


def cases():
    yield "linear", linear(1, 21, 10, 7)
    yield "rms_norm", rms_norm(2, 5, 37, 1e-5)
    yield "rms_norm_eps", rms_norm(3, 3, 8, 0.5)
    yield "cross_entropy", cross_entropy(4, 7, 23, [2, 6])
    yield "cross_entropy_smoothed", cross_entropy(12, 7, 23, [0, 5], 0.125)
    yield "embedding", embedding(5, 11, 6, 40)
    yield "conv1d", conv1d(6, 2, 19, 5, 4, True)
    yield "conv1d_no_bias", conv1d(7, 3, 6, 4, 3, False)
    yield "scan", scan(8, 2, 37, 6, 5, False)
    yield "scan_state16", scan(9, 1, 17, 9, 16, False)
    yield "scan_lti", scan(10, 2, 35, 6, 5, True)
    yield "scan_lti_state16", scan(11, 1, 16, 5, 16, True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "backward")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(exist_ok=True)
    for name, case in cases():
        case.save(args.out, name)


if __name__ == "__main__":
    main()
