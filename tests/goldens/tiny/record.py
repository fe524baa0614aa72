#!/usr/bin/env python3
"""Records a tiny model's distributions from a running llama-server: `record.py --url .. --model tiny/NAME.gguf ..`.

The output NAME.json has the forced tokens, and for each listed position (the number of tokens seen) the log-softmax of
the raw logits over the whole vocabulary, in order of token id.
"""

import argparse
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "generation"))
import record as server  # noqa: E402

N_VOCAB = 272
POSITIONS = (1, 2, 9, 17, 18, 40, 64, 72)


def forced_tokens(n):
    """A fixed sequence without control tokens (ids 3..258 are bytes or pieces in both vocabularies)."""
    state, out = 12345, []
    for _ in range(n):
        state = (state * 1103515245 + 12345) % 2**31
        out.append(3 + (state >> 8) % 256)
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--url", "--model", "--version", "--cpu", "--command"):
        parser.add_argument(name, required=True)
    args = parser.parse_args()
    tokens = forced_tokens(max(POSITIONS))
    logprobs = {}
    for n in POSITIONS:
        # Only the listed probabilities matter; the bias keeps the sampled token a whole character, see generation/record.py.
        whole = server.post(args.url, "/tokenize", {"content": "a", "add_special": False})["tokens"][-1]
        reply = server.complete(args.url, tokens[:n], 1, N_VOCAB, logit_bias=[[whole, 1000.0]])
        top = reply["completion_probabilities"][0]["top_logprobs"]
        assert len(top) == N_VOCAB and reply["tokens_evaluated"] == n
        logprobs[n] = [round(entry["logprob"], 5) for entry in sorted(top, key=lambda entry: entry["id"])]
    model = pathlib.Path(args.model)
    golden = {
        "provenance": {
            "reference": args.version,
            "command": args.command,
            "request": f"/completion per position: n_predict 1, n_probs {N_VOCAB}",
            "cpu": args.cpu,
            "model": model.name,
            "model_sha256": server.sha256(model),
        },
        "tokens": tokens,
        "logprobs": logprobs,
    }
    model.with_suffix(".json").write_text(json.dumps(golden, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
