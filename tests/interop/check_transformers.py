#!/usr/bin/env python3
"""Shows that transformers loads what `rawrz export-hf` makes, and that it is the same model.

    python3 -m venv venv && venv/bin/pip install transformers torch
    venv/bin/python tests/interop/check_transformers.py --rawrz target/release/rawrz [--record]

For smollm2, qwen and gemma (in $RAWRZ_MODELS or the user's models folder): AutoConfig and AutoTokenizer load from the
folder, and the ids of every line of crates/text/tests/corpus/lines.jsonl are those in tests/goldens/tokenizer, which
tests/tokenizer_goldens.rs holds `rawrz tokenize` to; a sample is tokenized by the program itself, with what it adds. With
torch: safetensors of smollm2 and of every tiny model (all architectures) are loaded, and the log-probabilities of
continuations are compared with `rawrz run --precision float --logprobs`, which computes on decoded weights. --record
writes the figures beside this file. Exits with 1 when something differs that should not.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unicodedata

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
GOLDENS = ROOT / "tests/goldens/tokenizer"
CORPUS = ROOT / "crates/text/tests/corpus/lines.jsonl"
TINY = ROOT / "tests/goldens/tiny"
SAMPLE = range(0, 3469, 97)
PROMPT = "Water boils at a lower temperature on a mountain because"
N_TOKENS = 24
TOP = 20
LIMIT = 1e-2


def golden(name):
    """The recorded ids of each line with control tokens; the format is described in tests/goldens/tokenizer/record.py."""
    raw, at = (GOLDENS / f"{name}.ids").read_bytes(), 0

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = raw[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(raw):
        ids = [number() for _ in range(number())]
        if number():
            ids = [number() for _ in range(number())]
        yield ids


def tokenizers(args, scratch):
    from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

    lines = [json.loads(line) for line in CORPUS.read_text(encoding="utf-8").rstrip("\n").split("\n")]
    for name in ["smollm2", "qwen", "gemma"]:
        folder = scratch / name
        subprocess.run([args.rawrz, "export-hf", name, "--out", folder], check=True, capture_output=True)
        config = AutoConfig.from_pretrained(folder)
        auto = AutoTokenizer.from_pretrained(folder)
        plain = PreTrainedTokenizerFast.from_pretrained(folder)
        expected = list(golden(name))
        assert len(expected) == len(lines), "the goldens are of another corpus"

        def differing(tokenizer):
            ids = (tokenizer(line, add_special_tokens=False)["input_ids"] for line in lines)
            return [line for line, found, ids in zip(lines, ids, expected) if found != ids]

        of_auto = differing(auto)
        is_nfc = [line for line in of_auto if unicodedata.is_normalized("NFC", line)]
        wrong = 0
        for i in SAMPLE:
            run = subprocess.run([args.rawrz, "tokenize", name, "--json"], input=lines[i].encode(), capture_output=True)
            wrong += plain(lines[i])["input_ids"] != json.loads(run.stdout)
        yield {
            "model": name,
            "config": type(config).__name__,
            "lines": len(lines),
            "class of AutoTokenizer": type(auto).__name__,
            "lines that differ, AutoTokenizer": len(of_auto),
            "of these in NFC": len(is_nfc),
            "lines that differ, PreTrainedTokenizerFast": len(differing(plain)),
            "of a sample that differ from rawrz tokenize": wrong,
            "chat template": bool(auto.chat_template),
        }


def weights(args, scratch):
    import torch
    from transformers import AutoModelForCausalLM

    models = [("smollm2", dtype) for dtype in ["fp32", "bf16", "fp16"]]
    models += [(path.stem, "fp32") for path in sorted(TINY.glob("*.gguf"))]
    for name, dtype in models:
        path = name if name == "smollm2" else TINY / f"{name}.gguf"
        folder = scratch / f"{name}-{dtype}"
        export = [args.rawrz, "export-hf", path, "--out", folder, "--safetensors", dtype]
        done = subprocess.run(export, capture_output=True, text=True)
        if done.returncode != 0:
            yield {"model": name, "dtype": dtype, "refused": done.stderr.strip().split("\n")[-1]}
            continue
        command = [args.rawrz, "run", path, "--raw", "-p", PROMPT, "-n", str(N_TOKENS), "--temp", "0", "--json"]
        command += ["--precision", "float", "--kv-type", "f16", "--logprobs", str(TOP)]
        ours = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        tokenize = subprocess.run([args.rawrz, "tokenize", path, "--json"], input=PROMPT.encode(), capture_output=True)
        prompt = json.loads(tokenize.stdout)
        model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        with torch.no_grad():
            logits = model(torch.tensor([prompt + ours["tokens"]])).logits[0]
        logprobs = torch.log_softmax(logits.double(), dim=-1)
        # Row i predicts token i + 1.
        rows = logprobs[len(prompt) - 1 :]
        pairs = [(top["logprob"], rows[i, top["id"]].item()) for i, step in enumerate(ours["logprobs"]) for top in step]
        same = sum(rows[i].argmax().item() == token for i, token in enumerate(ours["tokens"]))
        yield {
            "model": name,
            "dtype": dtype,
            "class": type(model).__name__,
            "tensors missing": len(info["missing_keys"]),
            "tensors unexpected": len(info["unexpected_keys"]),
            "log-probabilities": len(pairs),
            "largest difference": round(max(abs(a - b) for a, b in pairs), 6),
            "most probable tokens that are the same": f"{same} of {len(ours['tokens'])}",
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rawrz", type=lambda path: pathlib.Path(path).resolve(), required=True)
    parser.add_argument("--record", action="store_true")
    args = parser.parse_args()

    os.environ["HF_HUB_OFFLINE"] = "1"
    import tokenizers as hf_tokenizers
    import transformers

    versions = {"python": sys.version.split()[0], "transformers": transformers.__version__}
    versions["tokenizers"] = hf_tokenizers.__version__
    try:
        import torch

        versions["torch"] = torch.__version__
    except ImportError:
        print("torch is not installed: weights are left out")
    bad = 0
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        rows = list(tokenizers(args, scratch))
        for row in rows:
            bad += row["of these in NFC"] + row["lines that differ, PreTrainedTokenizerFast"]
            bad += row["of a sample that differ from rawrz tokenize"]
            print(row)
        compared = []
        for row in weights(args, scratch) if "torch" in versions else []:
            compared.append(row)
            limit = LIMIT if row["dtype"] == "fp32" else float("inf")
            bad += row.get("largest difference", 0) > limit or row.get("tensors missing", 0) > 0
            print(row)
    if args.record:
        record = {"versions": versions, "tokenizers": rows, "weights": compared}
        name = f"transformers-{transformers.__version__}.json"
        (HERE / name).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
