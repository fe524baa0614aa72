#!/usr/bin/env python3
"""Compares RawrZ's perplexity with llama.cpp's for every tensor type that llama-quantize makes.

    types.py --bin DIR --rawrz PROGRAM --model FILE.gguf --version TEXT [--chunks N] [--threads N] [--only TYPE ..]

DIR has llama-quantize, llama-perplexity and llama-imatrix. The model is written out as F32 and quantized to each type
anew, in a temporary folder: every matrix whose rows hold whole blocks of the type gets it, all others are Q8_0, so
that what is measured is the type and not what llama-quantize falls back to. The token embedding gets it too, where
the type has at least four bits: with fewer, text breaks down. Types that require an importance matrix get one, made
of the same text, which only makes the model less broken.

Both programs then run the method of record.py on the first N chunks of 512 tokens of text.txt, the peer in
batches of 512. Where they differ by more than 0.3 %, both run without rounding inputs to 8 bits too:
`rawrz --precision float`, and the peer on the same weights written out as F32.

Appends to benches/record/perplexity-types.csv; rawrz is named there by its version and the commit of this checkout,
which it must be built from. `status` says what is not usual about a row.
"""

import argparse
import csv
import datetime
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
RECORD = HERE.parents[2] / "benches" / "record" / "perplexity-types.csv"
CTX = 512
BOUND = 0.3

# Type, weights in a block, whether llama-quantize requires an importance matrix, and whether the embedding gets it.
TYPES = [
    ("q4_0", 32, False, True), ("q4_1", 32, False, True), ("q5_0", 32, False, True), ("q5_1", 32, False, True),
    ("q8_0", 32, False, True), ("iq4_nl", 32, False, True), ("mxfp4", 32, False, True), ("nvfp4", 64, False, True),
    ("q2_0", 64, False, False), ("q1_0", 128, False, False),
    ("q2_K", 256, False, False), ("q3_K", 256, False, False), ("q4_K", 256, False, True), ("q5_K", 256, False, True),
    ("q6_K", 256, False, True), ("iq4_xs", 256, False, True), ("iq3_xxs", 256, True, False),
    ("iq3_s", 256, False, False), ("iq2_xxs", 256, True, False), ("iq2_xs", 256, True, False),
    ("iq2_s", 256, True, False), ("iq1_s", 256, True, False), ("iq1_m", 256, True, False),
    ("tq1_0", 256, False, False), ("tq2_0", 256, False, False),
    ("f16", 1, False, True), ("bf16", 1, False, True), ("f32", 1, False, True),
    ("q8_1", 32, False, True), ("q8_K", 256, False, True),
]
# Of these llama.cpp only makes activations.
NOT_MADE = {"q8_1", "q8_K"}
COLUMNS = [
    "date", "cpu", "model", "model_sha256", "type", "tensors", "tensors_all", "quantized_sha256", "status", "chunks",
    "rawrz", "peer", "difference_percent", "rawrz_float", "peer_f32", "float_difference_percent",
    "rawrz_version", "peer_version", "peer_command",
]


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def cpu_name():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown"


def run(*command):
    # A program that aborts would otherwise start a debugger.
    environment = {**os.environ, "GGML_NO_BACKTRACE": "1"}
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise RuntimeError(f"{pathlib.Path(command[0]).name}: {(done.stdout + done.stderr).strip()[-300:]}")
    return done.stdout + done.stderr


class Bench:
    def __init__(self, args, folder):
        self.peer_folder, self.rawrz, self.model = pathlib.Path(args.bin), args.rawrz, args.model
        self.folder = pathlib.Path(folder)
        self.text = self.folder / "text.txt"
        self.full = self.folder / "f32.gguf"
        self.imatrix = self.folder / "imatrix.gguf"
        self.n_chunks = args.chunks
        self.threads = args.threads
        text = (HERE / "text.txt").read_text(encoding="utf-8")
        self.text.write_text(text, encoding="utf-8")
        run(self.peer_folder / "llama-quantize", "--allow-requantize", self.model, self.full, "F32", self.threads)
        tensors = self.inspect(self.full, "--tensors")["tensors"]
        # What llama-quantize never quantizes is left out.
        self.matrices = {
            tensor["name"]: tensor["shape"][0] for tensor in tensors
            if len(tensor["shape"]) > 1 and tensor["name"].endswith(".weight") and "_norm." not in tensor["name"]
        }

    def inspect(self, path, *options):
        done = subprocess.run([self.rawrz, "inspect", "--json", *options, path], capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    def quantize(self, kind, block_len, needs_imatrix, embedding):
        """The file, how many of its tensors have the type, and how many matrices it has."""
        out = self.folder / f"quantized-{kind}.gguf"
        rules = self.folder / "types.txt"
        lines = []
        for name, row_len in self.matrices.items():
            wanted = row_len % block_len == 0 and (embedding or name not in ("token_embd.weight", "output.weight"))
            lines.append(f"^{re.escape(name)}$={kind if wanted else 'q8_0'}")
        rules.write_text("\n".join(lines) + "\n")
        options = ["--tensor-type-file", rules]
        if needs_imatrix:
            if not self.imatrix.exists():
                run(self.peer_folder / "llama-imatrix", "-m", self.full, "-f", self.text, "-c", CTX, "-t", self.threads,
                    "--chunks", 4, "-o", self.imatrix)
            options += ["--imatrix", self.imatrix]
        run(self.peer_folder / "llama-quantize", *options, self.full, out, "Q8_0", self.threads)
        types = self.inspect(out)["types"]
        return out, types.get(kind, types.get(kind.lower(), {})).get("tensors", 0), len(self.matrices)

    def peer_command(self):
        limit = ["--chunks", self.n_chunks] if self.n_chunks else []
        return ["llama-perplexity", "-c", CTX, "-b", 512, "-ub", 512, "-t", self.threads, "--no-repack", "-fa", "off", *limit]

    def peer(self, model):
        name, *options = self.peer_command()
        output = run(self.peer_folder / name, *options, "-m", model, "-f", self.text)
        return float(re.search(r"Final estimate: PPL = ([\d.]+)", output)[1]), len(re.findall(r"\[\d+\][\d.]+", output))

    def ours(self, model, *options):
        done = subprocess.run(
            [self.rawrz, "perplexity", model, self.text, "--ctx", str(CTX), "--threads", self.threads, "--json", *options],
            capture_output=True, text=True,
        )
        if done.returncode != 0:
            raise RuntimeError(f"rawrz: {done.stderr.strip()[-300:]}")
        result = json.loads(done.stdout)
        return result["perplexity"], result["chunks"]

    def shorten(self):
        """Cuts the text after a word so that RawrZ, which knows no limit, reads as many chunks as the peer."""
        if not self.n_chunks:
            return
        text = self.text.read_text(encoding="utf-8")
        words = [match.start() for match in re.finditer(" ", text)] + [len(text)]
        low, high = 0, len(words) - 1
        while low < high:
            middle = (low + high) // 2
            self.text.write_text(text[: words[middle]], encoding="utf-8")
            if self.n_tokens() >= self.n_chunks * CTX + 32:
                high = middle
            else:
                low = middle + 1
        self.text.write_text(text[: words[low]], encoding="utf-8")

    def n_tokens(self):
        # As record.py counts them.
        done = subprocess.run(
            [self.peer_folder / "llama-tokenize", "-m", self.model, "--stdin", "--ids", "--log-disable",
             "--no-parse-special"],
            input=self.text.read_text(encoding="utf-8"), capture_output=True, text=True, check=True,
        )
        return len(json.loads(done.stdout))


def percent(ours, theirs):
    return 100.0 * (ours / theirs - 1.0)


def measure(bench, kind, block_len, needs_imatrix, embedding):
    try:
        path, n_tensors, n_matrices = bench.quantize(kind, block_len, needs_imatrix, embedding)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return {"type": kind, "status": "llama-quantize does not make it" if kind in NOT_MADE else "failed: llama-quantize"}
    row = {"type": kind, "tensors": n_tensors, "tensors_all": n_matrices, "quantized_sha256": sha256(path)}
    if n_tensors == 0:
        path.unlink()
        return {**row, "status": "type does not occur"}
    try:
        theirs, n_chunks = bench.peer(path)
        ours, our_chunks = bench.ours(path)
        assert n_chunks == our_chunks, (n_chunks, our_chunks)
        off = percent(ours, theirs)
        row.update(chunks=n_chunks, rawrz=f"{ours:.4f}", peer=f"{theirs:.4f}", difference_percent=f"{off:+.3f}",
                   status="within 0.3 %")
        if abs(off) > BOUND:
            exact = bench.folder / "exact.gguf"
            run(bench.peer_folder / "llama-quantize", "--allow-requantize", path, exact, "F32", bench.threads)
            ours, theirs = bench.ours(path, "--precision", "float")[0], bench.peer(exact)[0]
            exact.unlink()
            row.update(rawrz_float=f"{ours:.4f}", peer_f32=f"{theirs:.4f}",
                       float_difference_percent=f"{percent(ours, theirs):+.3f}", status="more than 0.3 %")
    except RuntimeError as error:
        print(error, file=sys.stderr)
        row["status"] = "failed: " + str(error).splitlines()[-1]
    path.unlink()
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--bin", "--rawrz", "--model", "--version"):
        parser.add_argument(name, required=True)
    parser.add_argument("--chunks", type=int, help="chunks of the text [default: all]")
    parser.add_argument("--threads", default="2", help="of each program [default: 2]")
    parser.add_argument("--only", nargs="+", default=[], metavar="TYPE")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args, folder)
        bench.shorten()
        commit = run("git", "-C", HERE, "rev-parse", "--short=7", "HEAD").strip()
        common = {
            "date": datetime.date.today().isoformat(), "cpu": cpu_name(), "model": pathlib.Path(args.model).name,
            "model_sha256": sha256(args.model), "rawrz_version": f"{run(args.rawrz, '--version').strip()} ({commit})",
            "peer_version": args.version, "peer_command": " ".join(str(part) for part in bench.peer_command()),
        }
        for kind in TYPES:
            if args.only and kind[0] not in args.only:
                continue
            row = {**common, **measure(bench, *kind)}
            is_new = not RECORD.exists()
            with open(RECORD, "a", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                if is_new:
                    writer.writeheader()
                writer.writerow(row)
            shown = ("type", "tensors", "tensors_all", "chunks", "rawrz", "peer", "difference_percent", "rawrz_float",
                     "peer_f32", "float_difference_percent", "status")
            print(*(row.get(key, "-") for key in shown), flush=True)


if __name__ == "__main__":
    main()
