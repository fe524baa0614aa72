#!/usr/bin/env python3
"""Records what the tests and the grids of rawrz-gguf are checked against. Needs `pip install gguf==0.19.0 numpy`.

    python3 record.py [--ggml PATH/libggml-base.so]

Writes, relative to this file:
  ../../src/quant/grid_data.rs   the grids of the IQ types, packed, from the tables of the gguf package
  decode.bin                     for each type: raw blocks and what gguf.quants.dequantize makes of them, as f32 bits
  wide.txt                       for each type: a hash over 512 pseudo-random blocks, which the test makes again
  types.txt                      id, name, weights and bytes of a block of each type ggml has (removed types: 0 weights)
  encode.bin                     one row of weights and what gguf.quants.quantize makes of it, for each type it knows

Q1_0, Q2_0 and Q8_K have no decoder in the package (nor Q8_1, Q8_K, Q1_0, Q2_0 an encoder): they and types.txt are
recorded from the shared library of llama.cpp (b11434) when --ggml names it; without it their old records are kept.
Q8_1 has no decoder anywhere: d * q by its definition in ggml-common.h.
"""

import argparse
import ctypes
import struct
from pathlib import Path

import numpy as np
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as T

HERE = Path(__file__).resolve().parent
MASK = (1 << 64) - 1

# Where each block keeps its f16 scales (byte offsets). The layouts in Rust are written independently.
F16_SCALES = {
    "F16": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q8_1": [0, 2],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
    "IQ2_XXS": [0], "IQ2_XS": [0], "IQ3_XXS": [0], "IQ1_S": [0], "IQ4_NL": [0], "IQ3_S": [0], "IQ2_S": [0], "IQ4_XS": [0],
    "TQ1_0": [52], "TQ2_0": [64], "Q1_0": [0], "Q2_0": [0],
}
F32_SCALES = {"Q8_K": [0], "F32": [0]}
# Smallest and largest subnormal, smallest normal, one, largest, zeros, negatives.
EDGE_F16 = [0x0001, 0x03FF, 0x0400, 0x3C00, 0x7BFF, 0x0000, 0x8000, 0x8001, 0xBC00, 0xFBFF, 0x2E66, 0xA123]
EDGE_F32 = [0x00000001, 0x3F800000, 0xBF800000, 0x3C23D70A, 0x00000000, 0x80000000, 0x34000000, 0xBA83126F]


def sizes(name):
    """(weights, bytes) of a block. The package does not know Q2_0 and gives Q8_1 two f32 where ggml has two f16."""
    return {"Q2_0": (64, 18), "Q8_1": (32, 36)}.get(name) or GGML_QUANT_SIZES[T[name]]


def splitmix(seed, n_bytes):
    out = bytearray()
    state = seed
    while len(out) < n_bytes:
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        out += (z ^ (z >> 31)).to_bytes(8, "little")
    return bytes(out[:n_bytes])


def random_blocks(name, seed, n_blocks):
    """Random bytes whose scales are finite: the top exponent bit of each is cleared."""
    size = sizes(name)[1]
    raw = np.frombuffer(splitmix(seed, n_blocks * size), np.uint8).reshape(n_blocks, size).copy()
    for at in F16_SCALES.get(name, []):
        raw[:, at + 1] &= 0xBF
    for at in F32_SCALES.get(name, []):
        raw[:, at + 3] &= 0xBF
    if name == "IQ1_M":
        raw[:, 55] &= 0xBF  # the f16 scale is spread over the top nibbles of four 16-bit words
    return raw


def edge_blocks(name, seed):
    """Random quants under each edge-case scale."""
    f16, f32 = F16_SCALES.get(name), F32_SCALES.get(name)
    if name in ("F16", "F32"):
        edges = EDGE_F16 if f16 else EDGE_F32
        return np.frombuffer(struct.pack(f"<{len(edges)}{'H' if f16 else 'I'}", *edges), np.uint8).reshape(len(edges), -1)
    if name == "BF16":
        return np.frombuffer(struct.pack("<6H", 0x0001, 0x8001, 0x3F80, 0xBF80, 0x7F7F, 0x0000), np.uint8).reshape(6, 2)
    if name == "MXFP4":
        raw = random_blocks(name, seed, 8)
        raw[:, 0] = [0, 1, 2, 3, 127, 128, 253, 254]
        return raw
    if name == "NVFP4":
        raw = random_blocks(name, seed, 4)
        raw[:, :4] = np.array([[0, 1, 7, 8], [0x7E, 0x7F, 0x38, 0x40], [0x80, 0x81, 0x88, 0xFF], [0xFE, 9, 0x3F, 0x77]])
        return raw
    if name == "IQ1_M":
        raw = random_blocks(name, seed, 6)
        for row, edge in zip(raw, [0x0001, 0x03FF, 0x7BFF, 0x8001, 0xBC00, 0x3C00]):
            for i in range(4):
                row[48 + 2 * i + 1] = (row[48 + 2 * i + 1] & 0x0F) | ((edge >> (4 * i)) & 0xF) << 4
        return raw
    edges = EDGE_F16 if f16 else EDGE_F32
    n = len(edges) if sizes(name)[0] < 256 else 6
    raw = random_blocks(name, seed, n)
    for i, row in enumerate(raw):
        for k, at in enumerate(f16 or f32):
            # The second scale of a block takes another edge.
            edge = edges[(i * (2 if n == 6 else 1) + 5 * k) % len(edges)]
            row[at : at + (2 if f16 else 4)] = np.frombuffer(edge.to_bytes(2 if f16 else 4, "little"), np.uint8)
    return raw


class Ggml:
    def __init__(self, path):
        self.lib = ctypes.CDLL(path)

    def types(self):
        self.lib.ggml_type_name.restype = ctypes.c_char_p
        self.lib.ggml_blck_size.restype = ctypes.c_int64
        self.lib.ggml_type_size.restype = ctypes.c_size_t
        # GGML_TYPE_COUNT of b11434; the library does not export it.
        for i in range(43):
            weights = self.lib.ggml_blck_size(i)
            name = self.lib.ggml_type_name(i).decode() if weights else "removed"
            yield f"{i} {name} {weights} {self.lib.ggml_type_size(i)}\n"

    def decode(self, name, raw):
        out = np.empty(raw.shape[0] * sizes(name)[0], np.float32)
        call = getattr(self.lib, f"dequantize_row_{name.lower().replace('_k', '_K')}")
        raw = np.ascontiguousarray(raw)
        call(raw.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(out.size))
        return out

    def encode(self, name, weights):
        block_len, size = sizes(name)
        out = np.zeros(weights.size // block_len * size, np.uint8)
        call = getattr(self.lib, f"quantize_row_{name.lower().replace('_k', '_K')}_ref")
        call(weights.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(weights.size))
        return out


def decode(name, raw, ggml):
    if name == "Q8_1":
        d = raw[:, 0:2].copy().view(np.float16).astype(np.float32)
        return (d * raw[:, 4:].copy().view(np.int8).astype(np.float32)).ravel()
    if name in ("Q1_0", "Q2_0", "Q8_K"):
        return ggml.decode(name, raw) if ggml else None
    # The decoders of the package want rows; one block is a row.
    out = quants.dequantize(np.ascontiguousarray(raw), T[name])
    assert out.dtype == np.float32, name
    return out.ravel()


def fnv(words):
    h = 0xCBF29CE484222325
    for word in words.tolist():
        h = ((h ^ word) * 0x100000001B3) & MASK
    return h


def grid_data():
    out = [
        "//! The grids of the IQ types, packed: one `u16` per grid point, 2 bits (or 4 for the grids of 4) per coordinate,",
        "//! lowest bits first. Written by `tests/golden/record.py` from the tables of the PyPI package gguf 0.19.0.",
        "",
    ]
    for name in ["IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_S", "IQ3_XXS", "IQ3_S"]:
        cls = quants._type_traits[T[name]]
        rows, width = cls.grid_shape
        packed = np.frombuffer(bytes.fromhex(cls.grid_hex.decode()), "<u2")
        assert packed.size == rows and width in (4, 8)
        out.append("#[rustfmt::skip]")
        out.append(f"pub(super) const {name.replace('_', '')}: [u16; {rows}] = [")
        for i in range(0, rows, 16):
            out.append("    " + " ".join(f"0x{v:04x}," for v in packed[i : i + 16]))
        out.append("];")
        out.append("")
    (HERE / "../../src/quant/grid_data.rs").write_text("\n".join(out[:-1]) + "\n")


def read_entries(path):
    entries, data, at = {}, path.read_bytes() if path.exists() else b"", 0
    while at < len(data):
        n, a, b = struct.unpack_from("<BII", data, at)
        name = data[at + 9 : at + 9 + n].decode()
        at += 9 + n
        entries[name] = (data[at : at + a], data[at + a : at + a + b])
        at += a + b
    return entries


def write_entries(path, entries):
    """Per entry: name length u8, two byte counts u32, name, two byte strings."""
    out = bytearray()
    for name, (a, b) in entries.items():
        out += struct.pack("<BII", len(name), len(a), len(b)) + name.encode() + a + b
    path.write_bytes(out)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--ggml", help="libggml-base.so of llama.cpp b11434")
    path = args.parse_args().ggml
    ggml = Ggml(path) if path else None
    np.seterr(over="ignore", under="ignore", invalid="ignore")
    grid_data()
    if ggml:
        (HERE / "types.txt").write_text("".join(ggml.types()))

    names = [t.name for t in T if t.name not in ("I8", "I16", "I32", "I64", "F64")] + ["Q2_0"]
    kept, entries = read_entries(HERE / "decode.bin"), {}
    wide_path = HERE / "wide.txt"
    wide_kept = dict(line.split() for line in wide_path.read_text().splitlines()) if wide_path.exists() else {}
    wide = {}
    for i, name in enumerate(names):
        raw = np.concatenate([edge_blocks(name, 1000 + i), random_blocks(name, 2000 + i, 4)])
        expected = decode(name, raw, ggml)
        if expected is None:
            entries[name], wide[name] = kept[name], wide_kept[name]
            continue
        entries[name] = (raw.tobytes(), expected.tobytes())
        wide[name] = f"{fnv(decode(name, random_blocks(name, 3000 + i, 512), ggml).view(np.uint32)):016x}"
    write_entries(HERE / "decode.bin", entries)
    wide_path.write_text("".join(f"{name} {value}\n" for name, value in wide.items()))

    rng = np.random.default_rng(7)
    weights = (rng.standard_normal(4096) * 0.05).astype(np.float32)
    weights[0:256] = 0
    weights[256:512] = 0.75
    weights[512:768] = -np.abs(weights[512:768])
    weights[768:1024] = np.abs(weights[768:1024])
    weights[1024:1280] *= np.float32(1e-6)
    weights[1280:1536] *= np.float32(1e4)
    weights[1536:1792] = (np.arange(256) - 127.5) / 8  # many ties between two quants
    weights[1792:2048] = rng.integers(-3, 4, 256)
    kept, entries = read_entries(HERE / "encode.bin"), {}
    entries["weights"] = (weights.tobytes(), b"")
    for name in ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0", "Q8_1", "Q8_K", "Q1_0", "Q2_0"]:
        if name in ("Q8_1", "Q8_K", "Q1_0", "Q2_0"):
            if not ggml:
                entries[name] = kept[name]
                continue
            raw = ggml.encode(name, weights)
        else:
            raw = quants.quantize(weights.reshape(16, 256), T[name])
        entries[name] = (b"", raw.tobytes())
    write_entries(HERE / "encode.bin", entries)


if __name__ == "__main__":
    main()
