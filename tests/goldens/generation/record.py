#!/usr/bin/env python3
"""Records the greedy continuations of a running llama-server as goldens, and compares two recordings.

    record.py record --url http://127.0.0.1:8080 --model FILE.gguf --version TEXT --cpu TEXT --command TEXT --out FILE.json
    record.py compare A.json B.json

The server must already run; nothing is built or started here. Only the standard library is used.

Output: one JSON object. `provenance` says how it was made. Each of `records` has the prompt's name and token ids, the
output ids, and `top`: for each output position the five most probable tokens as a flat list
[id, logprob, id, logprob, ..], most probable first. The logprobs are the log-softmax of the raw logits: no penalty,
temperature or bias is in them. Generation goes on after an end-of-generation token, which is listed as any other.
"""

import argparse
import hashlib
import json
import pathlib
import urllib.request

N_PREDICT = 64
N_TOP = 5
HERE = pathlib.Path(__file__).parent


def post(url, path, body):
    request = urllib.request.Request(
        url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=600) as reply:
        return json.load(reply)


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def complete(url, prompt_ids, n_predict, n_top, **more):
    return post(
        url,
        "/completion",
        {
            "prompt": prompt_ids,
            "n_predict": n_predict,
            "temperature": 0,
            "n_probs": n_top,
            "post_sampling_probs": False,
            "cache_prompt": False,
            "return_tokens": True,
            "samplers": ["temperature"],
            **more,
        },
    )


def flat_top(position):
    flat = []
    for candidate in position["top_logprobs"]:
        flat += [candidate["id"], round(candidate["logprob"], 5)]
    return flat


def match(ids, wanted):
    """Leftmost indices at which `wanted` occurs in `ids` as a subsequence."""
    found, at = [], 0
    for token in wanted:
        at = ids.index(token, at) + 1
        found.append(at - 1)
    return found


def continuation(url, prompt_ids, n_predict, n_top):
    """Output ids and their top tokens, up to `n_predict` of them or an end-of-generation token."""
    reply = complete(url, prompt_ids, n_predict, n_top)
    ids, positions = reply["tokens"], reply["completion_probabilities"]
    if reply["tokens_evaluated"] != len(prompt_ids) or not ids:
        raise SystemExit("the server answered something else than it was asked for")
    # The server lists no probabilities for a token that ends inside a UTF-8 character. The positions it did list are
    # found by their ids; each other one is asked for alone, with a bias that makes the sampled token (not the listed
    # probabilities, which come before the bias) a whole character.
    listed = [position["id"] for position in positions]
    left = match(ids, listed)
    right = [len(ids) - 1 - at for at in match(ids[::-1], listed[::-1])][::-1]
    tops = {at: flat_top(position) for at, other, position in zip(left, right, positions) if at == other}
    ids = ids[:n_predict]
    for at in range(len(ids)):
        if at not in tops:
            whole = post(url, "/tokenize", {"content": "a", "add_special": False})["tokens"][-1]
            alone = complete(url, prompt_ids + ids[:at], 1, n_top, logit_bias=[[whole, 1000.0]])
            tops[at] = flat_top(alone["completion_probabilities"][0])
    return ids, [tops[at] for at in range(len(ids))]


def greedy(url, prompt_ids, n_predict=N_PREDICT, n_top=N_TOP):
    output_ids, tops = [], []
    while len(output_ids) < n_predict:
        ids, more = continuation(url, prompt_ids + output_ids, n_predict - len(output_ids), n_top)
        output_ids += ids
        tops += more
    return {"output_ids": output_ids, "top": tops}


def record(args):
    prompts = json.loads((HERE / "prompts.json").read_text(encoding="utf-8"))
    records = []
    for prompt in prompts[: args.first]:
        tokenized = post(
            args.url, "/tokenize", {"content": prompt["text"], "add_special": True, "parse_special": False}
        )
        ids = tokenized["tokens"]
        records.append({"prompt": prompt["name"], "prompt_ids": ids, **greedy(args.url, ids, args.predict)})
        print(prompt["name"], len(ids), flush=True)
    provenance = {
        "reference": args.version,
        "command": args.command,
        "request": f"/completion temperature 0, n_predict {args.predict}, n_probs {N_TOP}, cache_prompt off; asked again with what there is after an end-of-generation token",
        "cpu": args.cpu,
        "model": pathlib.Path(args.model).name,
        "model_sha256": sha256(args.model),
    }
    lines = ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in records)
    text = '{"provenance":%s,\n"records":[\n%s\n]}\n' % (json.dumps(provenance, indent=1), lines)
    pathlib.Path(args.out).write_text(text, encoding="utf-8")


def compare(args):
    """How far two recordings of the same prompts are apart: changed texts, and logprobs where the context is the same."""
    a, b = (json.loads(pathlib.Path(name).read_text(encoding="utf-8"))["records"] for name in (args.a, args.b))
    changed, differences = [], []
    for x, y in zip(a, b, strict=True):
        assert x["prompt_ids"] == y["prompt_ids"]
        first = next((i for i, (p, q) in enumerate(zip(x["output_ids"], y["output_ids"])) if p != q), None)
        shared = len(x["top"]) if first is None else first + 1
        for p, q in zip(x["top"][:shared], y["top"][:shared]):
            other = dict(zip(q[::2], q[1::2]))
            differences += [abs(lp - other[i]) for i, lp in zip(p[::2], p[1::2]) if i in other]
        if first is not None:
            top = x["top"][first]
            changed.append(f"{x['prompt']} at {first} (gap {top[1] - top[3]:.4f})")
    print(f"changed texts: {len(changed)} of {len(a)}; mean |logprob difference| {sum(differences) / len(differences):.5f}, max {max(differences):.4f}")
    for line in changed:
        print("  " + line)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    sub = commands.add_parser("record")
    sub.add_argument("--url", default="http://127.0.0.1:8080")
    for name in ("--model", "--version", "--cpu", "--command", "--out"):
        sub.add_argument(name, required=True)
    sub.add_argument("--first", type=int, help="record only the first so many prompts")
    sub.add_argument("--predict", type=int, default=N_PREDICT, help="tokens of each continuation")
    sub.set_defaults(run=record)
    sub = commands.add_parser("compare")
    sub.add_argument("a")
    sub.add_argument("b")
    sub.set_defaults(run=compare)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
