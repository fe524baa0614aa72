#!/usr/bin/env python3
"""Records llama-perplexity on text.txt: `record.py --bin DIR --model FILE.gguf --version TEXT --cpu TEXT --out FILE.json [option ..]`.

DIR has llama-perplexity and llama-tokenize; further arguments are passed on to llama-perplexity. `running` is the
perplexity after each chunk of 512 tokens, as it is printed there.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "generation"))
import record as server  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--bin", "--model", "--version", "--cpu", "--out"):
        parser.add_argument(name, required=True)
    args, options = parser.parse_known_args()
    text = HERE / "text.txt"
    command = ["llama-perplexity", "-c", "512", *options]
    run = subprocess.run(
        [f"{args.bin}/{command[0]}", *command[1:], "-m", args.model, "-f", text], capture_output=True, text=True, check=True
    )
    output = run.stdout + run.stderr
    final = re.search(r"Final estimate: PPL = ([\d.]+) \+/- ([\d.]+)", output)
    running = {int(n): float(value) for n, value in re.findall(r"\[(\d+)\]([\d.]+)", output)}
    # Like llama-perplexity, without the newline at the end of the file.
    tokenize = subprocess.run(
        [f"{args.bin}/llama-tokenize", "-m", args.model, "--stdin", "--ids", "--log-disable", "--no-parse-special"],
        input=text.read_text(encoding="utf-8").removesuffix("\n"), capture_output=True, text=True, check=True,
    )
    golden = {
        "reference": args.version,
        "command": " ".join(command),
        "cpu": args.cpu,
        "model": pathlib.Path(args.model).name,
        "model_sha256": server.sha256(args.model),
        "tokens": len(json.loads(tokenize.stdout)),
        "perplexity": float(final[1]),
        "standard_error": float(final[2]),
        "running": [running[n] for n in sorted(running)],
    }
    pathlib.Path(args.out).write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")
    print(args.out, final[0], len(running), "chunks", golden["tokens"], "tokens")


if __name__ == "__main__":
    main()
