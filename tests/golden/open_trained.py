"""Opens checkpoints that this program wrote in transformers, and compares logits.

Usage: open_trained.py PROGRAM FOLDER...    PROGRAM: the mamba-wgpu to compare with; FOLDER: a checkpoint of `train`, or of make_random_model
       open_trained.py --types              writes config_types.json, of what type transformers' classes declare each value to be

Fails unless each opens with AutoModelForCausalLM, its config holds only what the classes declare, and the logits of the last token are
within 1e-4 of `mamba-wgpu logits --backend cpu`, and a text's tokens are the same where there is a tokenizer. See README.md beside this for the environment.
"""

import json
import os
import subprocess
import sys
import types
import typing
from pathlib import Path

os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, FalconMambaConfig, Mamba2Config, MambaConfig

HERE = Path(__file__).resolve().parent
TOLERANCE = 1e-4
TEXT = "Emma was happy."


def names(kind):
    """The JSON types of an annotation; None where any will do."""
    if kind is typing.Any:
        return None
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        parts = [names(part) for part in typing.get_args(kind)]
        return None if None in parts else sorted({name for part in parts for name in part})
    if typing.get_origin(kind) in (list, tuple):  # JSON has no tuples
        of = names(typing.get_args(kind)[0])
        return ["list"] if of is None else [f"list[{name}]" for name in of]
    known = {int: "int", float: "float", bool: "bool", str: "str", type(None): "null", list: "list", dict: "dict"}
    return [known[kind]] if kind in known else None


def write_types():
    table = {"made_by": f"open_trained.py --types, transformers {transformers.__version__}"}
    for cls in (MambaConfig, FalconMambaConfig, Mamba2Config):
        fields = {key: names(field.type) for key, field in cls.__dataclass_fields__.items()}
        table[cls.model_type] = {key: kinds for key, kinds in sorted(fields.items()) if kinds}
    path = HERE / "config_types.json"
    path.write_text(json.dumps(table, indent=1) + "\n")
    print(f"{path}: {[(key, len(value)) for key, value in table.items() if isinstance(value, dict)]}")


def compare(program, folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(model.config.vocab_size, (1, 37), generator=generator)
    with torch.no_grad():
        theirs = model(tokens).logits[0, -1]
    ids = ",".join(str(token) for token in tokens[0].tolist())
    command = [program, "logits", "--json", "--backend", "cpu", "--model", folder, "--tokens", ids]
    ours = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    difference = (torch.tensor(ours["last_logits"]) - theirs).abs().max().item()
    assert len(ours["last_logits"]) == len(theirs) and difference < TOLERANCE, f"{folder}: logits differ by {difference}"
    if (Path(folder) / "tokenizer.json").exists():
        ids = AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"]
        command = [program, "logits", "--json", "--backend", "cpu", "--model", folder, "--text", TEXT]
        ours = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        assert ours["tokens"] == ids, f"{folder}: {TEXT!r} is {ours['tokens']}, to transformers {ids}"
    print(f"{folder}: {type(model).__name__}, logits of {len(theirs)} tokens within {difference:.1e}")


if __name__ == "__main__":
    if sys.argv[1:] == ["--types"]:
        write_types()
    elif len(sys.argv) > 2:
        for folder in sys.argv[2:]:
            compare(sys.argv[1], folder)
    else:
        sys.exit(__doc__)
