"""Decodes one model greedily with transformers and with mamba-wgpu, in turn, and compares tokens and speed.

Run by compare_transformers.sh. Batch 1, float32. transformers: MambaForCausalLM fed one token at a time with its cache, by
a bare loop (`generate()` does more for each token), on all cores and on one. Timed is decoding alone: from the first new
token to the last.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def cores():
    """Those that this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--program", default=os.path.join(ROOT, "target/release/mamba-wgpu"), help="mamba-wgpu itself")
    parser.add_argument("--model", default=os.path.join(ROOT, "models/austen-4m"), help="folder of the checkpoint")
    parser.add_argument("--prompt", default="It is a truth universally acknowledged, that")
    parser.add_argument("--tokens", type=int, default=256, help="to decode in each run (default %(default)s)")
    parser.add_argument("--runs", type=int, default=7, help="of each, in turn (default %(default)s)")
    parser.add_argument("--backends", default="cpu,vulkan", help="of mamba-wgpu (default %(default)s)")
    parser.add_argument("--threads", type=int, default=cores(), help="(default: all cores, %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write everything to this file")
    args = parser.parse_args()
    if args.tokens < 2 or args.runs < 1 or args.threads < 1:
        parser.error("--tokens must be 2 or more, --runs and --threads 1 or more")
    return args


class Transformers:
    def __init__(self, model, prompt, threads):
        self.model, self.prompt, self.threads = model, prompt, threads

    def run(self, n):
        """n greedy tokens, and the seconds that all but the first took."""
        torch.set_num_threads(self.threads)
        with torch.inference_mode():
            out = self.model(torch.tensor([self.prompt]), use_cache=True)
            tokens = [int(out.logits[0, -1].argmax())]
            start = time.perf_counter()
            while len(tokens) < n:
                out = self.model(torch.tensor([tokens[-1:]]), cache_params=out.cache_params, use_cache=True)
                tokens.append(int(out.logits[0, -1].argmax()))
        return tokens, time.perf_counter() - start


class MambaWgpu:
    def __init__(self, args, backend):
        self.env = dict(os.environ, RAYON_NUM_THREADS=str(args.threads))
        self.command = [args.program, "generate", "--model", args.model, "--backend", backend, "--temperature", "0"]
        self.command += ["--ignore-eos", "--stats", "--json"]
        self.prompt = args.prompt

    def run(self, n):
        command = [*self.command, "--max-tokens", str(n), "--", self.prompt]
        done = subprocess.run(command, capture_output=True, text=True, env=self.env)
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)}: {done.stderr}")
        result = json.loads(done.stdout)
        return result["tokens"], (n - 1) / result["decode_tokens_per_second"]


def processor():
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main():
    args = arguments()
    # Only now: --help needs none of them.
    global tokenizers, torch, transformers
    import tokenizers
    import torch
    import transformers

    model = transformers.MambaForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    tokenizer = tokenizers.Tokenizer.from_file(os.path.join(args.model, "tokenizer.json"))
    prompt = tokenizer.encode(args.prompt).ids
    # So small a model may be faster on one thread: it is held against the better of the two.
    theirs = {f"transformers, {n} thread{'s'[: n > 1]}": Transformers(model, prompt, n) for n in sorted({1, args.threads})}
    kinds = dict(theirs)
    kinds |= {f"mamba-wgpu {backend}": MambaWgpu(args, backend) for backend in args.backends.split(",") if backend}
    expected, seconds, equal = None, {kind: [] for kind in kinds}, dict.fromkeys(kinds, True)
    # In turn, so that whatever else the machine does falls on all alike; the first round warms up.
    for repeat in range(args.runs + 1):
        for kind, runner in kinds.items():
            tokens, took = runner.run(args.tokens)
            expected = expected or tokens
            equal[kind] &= tokens == expected
            if repeat > 0:
                seconds[kind].append(took)
            print(f"{repeat}/{args.runs} {kind}: {(args.tokens - 1) / took:.1f} tokens/s", file=sys.stderr)
    rates = {kind: sorted((args.tokens - 1) / s for s in all_of) for kind, all_of in seconds.items()}
    base = max(statistics.median(rates[kind]) for kind in theirs)
    rows = [
        {
            "what": kind,
            "tokens_per_second": {"median": statistics.median(r), "min": r[0], "max": r[-1], "n": len(r)},
            "times_transformers": statistics.median(r) / base,
            "same_tokens": equal[kind],
        }
        for kind, r in rates.items()
    ]
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    versions["transformers"] = transformers.__version__
    about = {"processor": processor(), "threads": args.threads, "versions": versions}
    about |= {"model": os.path.basename(os.path.normpath(args.model)), "prompt": args.prompt, "tokens": args.tokens}
    print(f"{about['processor']}, {args.threads} threads; torch {torch.__version__}, transformers {transformers.__version__}")
    print(f"{about['model']}, {args.tokens} greedy tokens after {len(prompt)}, {args.runs} runs\n")
    print(f"{'':<24} {'tokens/s':>9} {'slowest':>9} {'fastest':>9} {'of transformers':>16}  tokens")
    for row in rows:
        rate, times = row["tokens_per_second"], f"{row['times_transformers']:.2f} x"
        same = "the same" if row["same_tokens"] else "DIFFERENT"
        numbers = f"{rate['median']:>9.1f} {rate['min']:>9.1f} {rate['max']:>9.1f} {times:>16}"
        print(f"{row['what']:<24} {numbers}  {same}")
    if args.json:
        with open(args.json, "w") as file:
            json.dump(about | {"rows": rows}, file, indent=2)
            file.write("\n")
    if not all(equal.values()):
        sys.exit("error: the tokens differ")


if __name__ == "__main__":
    main()
