"""Writes small tokenizers as they lie beside published models, and what transformers makes of texts with each: tests/golden/tokenizers.

Usage: make_tokenizers.py   (see README.md beside this for the environment)

Each folder has the files and expected.json: `special` are the ids of `tokenizer(text)`, `plain` those with add_special_tokens=False,
`decoded` is plain turned back into text, `bos` and `eos` the ids of those tokens (null for none).
"""

import json
import os
import shutil
from pathlib import Path

os.environ["TRANSFORMERS_VERBOSITY"] = "error"

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

HERE = Path(__file__).resolve().parent
OUT = HERE / "tokenizers"
TEXTS = [
    "",
    "a",
    "Emma was",
    "  two spaces, a\ttab and\n\na blank line  ",
    "It's theirs: don't, we'll, I'd. 1234567 x86_64 C++",
    "<s>already there</s> and <|endoftext|>",
    "cafe\u0301 caf\u00e9 \u212b na\u00efve \u00fcber",  # composed and decomposed: NFC tells them apart
    "\u8bed\u8a00\u6a21\u578b \U0001f980 \U0001f468\u200d\U0001f680",
    "## a heading # #x",
    "<extra> <EXTRA> x<extra>y",
]
BYTE_LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False)


def trained():
    """A byte-level BPE of 400 entries; 0 to 2 are <|endoftext|>, <s> and </s>."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = BYTE_LEVEL
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<s>", "</s>"],
    )
    text = (HERE.parent / "data" / "austen-4m" / "heldout.txt").read_text(encoding="utf-8")
    # Headings, so that there are merges of "#", which some readers of merges.txt take for comments.
    tokenizer.train_from_iterator([text[:40000], "# # ## ### a ## b\n" * 400], trainer)
    return tokenizer


def template(single, specials):
    return processors.TemplateProcessing(single=single, pair=f"{single} $B", special_tokens=specials)


def write(name, tokenizer=None, slow=None, extra=None):
    folder = OUT / name
    folder.mkdir(parents=True)
    if tokenizer is not None:
        data = json.loads(tokenizer.to_str())
        (folder / "tokenizer.json").write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    if slow is not None:
        model = json.loads(slow.to_str())["model"]
        (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
        merges = "".join(f"{a} {b}\n" for a, b in model["merges"])
        (folder / "merges.txt").write_text("#version: 0.2\n" + merges, encoding="utf-8")
    for file, value in (extra or {}).items():
        (folder / file).write_text(json.dumps(value, indent=1), encoding="utf-8")
    # What kind of model it is decides the class where tokenizer_config.json does not; it is not kept.
    (folder / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    ours = AutoTokenizer.from_pretrained(folder)
    (folder / "config.json").unlink()
    rows = []
    for text in TEXTS:
        plain = ours(text, add_special_tokens=False)["input_ids"]
        decoded = ours.decode(plain, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        rows.append({"text": text, "special": ours(text)["input_ids"], "plain": plain, "decoded": decoded})
    expected = {"class": type(ours).__name__, "bos": ours.bos_token_id, "eos": ours.eos_token_id, "texts": rows}
    (folder / "expected.json").write_text(json.dumps(expected, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"{name}: {type(ours).__name__}, 'a' is {rows[1]['special']}")


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    fast = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    both = {"add_bos_token": True, "add_eos_token": True}

    tokenizer = trained()
    tokenizer.post_processor = template("<s> $A", [("<s>", 1)])
    write("template-before", tokenizer, extra={"tokenizer_config.json": fast})
    # As its class rebuilds it, whatever the file's post-processor and the flags say. (It puts NFC before, as GPT-NeoX's own file has.)
    tokenizer.normalizer = normalizers.NFC()
    neox = {**fast, "tokenizer_class": "GPTNeoXTokenizer"}
    write("template-neox", tokenizer, extra={"tokenizer_config.json": {**neox, **both}})
    tokenizer.normalizer = None

    tokenizer.post_processor = template("<s> $A </s>", [("<s>", 1), ("</s>", 2)])
    objects = {**fast, "eos_token": {"__type": "AddedToken", "content": "</s>", "lstrip": False, "normalized": False}}
    write("template-around", tokenizer, extra={"tokenizer_config.json": objects})
    # The flags stand back behind the file's post-processor.
    write("template-flags", tokenizer, extra={"tokenizer_config.json": {**fast, "add_bos_token": False}})

    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 1))
    write("roberta", tokenizer, extra={"tokenizer_config.json": fast})

    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(), template("$A </s>", [("</s>", 2)])])
    write("sequence-after", tokenizer, extra={"tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"},
                                             "special_tokens_map.json": {"bos_token": "<s>", "eos_token": "</s>"}})

    tokenizer = trained()
    write("none-flags", tokenizer, extra={"tokenizer_config.json": {**fast, **both}})

    tokenizer = trained()
    gpt2 = {"tokenizer_class": "GPT2Tokenizer"}
    ends = {"bos_token": "<s>", "eos_token": "</s>"}
    write("slow-gpt2", slow=tokenizer, extra={"tokenizer_config.json": gpt2})
    write("slow-gpt2-around", slow=tokenizer, extra={"tokenizer_config.json": {**gpt2, **ends, **both}})
    write("slow-gpt2-before", slow=tokenizer, extra={"tokenizer_config.json": {**gpt2, "add_bos_token": True}})
    write("slow-gpt2-space", slow=tokenizer, extra={"tokenizer_config.json": {**gpt2, "add_prefix_space": True}})
    added = {
        "0": AddedToken("<|endoftext|>", special=True, normalized=False).__getstate__(),
        "400": AddedToken("<extra>", special=False, normalized=True, lstrip=True).__getstate__(),
        "401": AddedToken("<EXTRA>", special=True, normalized=False).__getstate__(),
    }
    write("slow-gpt2-added", slow=tokenizer, extra={"tokenizer_config.json": {**gpt2, "added_tokens_decoder": added}})
    write(
        "slow-legacy",
        slow=tokenizer,
        extra={
            "tokenizer_config.json": {**gpt2, "add_bos_token": True},
            "special_tokens_map.json": {**ends, "pad_token": {"content": "<EXTRA>", "lstrip": False, "normalized": False,
                                                              "rstrip": False, "single_word": False}},
            "added_tokens.json": {"<EXTRA>": 401, "<extra>": 400},
        },
    )
    write("slow-neox", slow=tokenizer, extra={"tokenizer_config.json": {"tokenizer_class": "GPTNeoXTokenizerFast", **ends, **both}})
    write("slow-no-config", slow=tokenizer)
    write("slow-codegen", slow=tokenizer, extra={"tokenizer_config.json": {"tokenizer_class": "CodeGenTokenizer"}})
    write("slow-qwen2", slow=tokenizer, extra={"tokenizer_config.json": {"tokenizer_class": "Qwen2Tokenizer"}})


if __name__ == "__main__":
    main()
