#!/usr/bin/env python3
"""Writes the tiny random-weight models of this folder: `make.py OUT_DIR` (needs `pip install gguf==0.19.0 numpy`).

Each is a valid model of its architecture with a vocabulary of 272 tokens, small enough to commit. Together they cover
what the real models of the tests do not: RoPE scaling of every kind, biases, untied outputs, head layouts, local and
global layers, and all weight types. The seeds are fixed; the committed files were written with numpy 2.4.6.
"""

import math
import pathlib
import sys
import zlib

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T

N_VOCAB = 272

HEAD_NORMS = ("attn_q_norm", "attn_k_norm")
GEMMA_NORMS = (*HEAD_NORMS, "post_attention_norm", "post_ffw_norm")

# Bytes per block, and how to make a random block decode to values of about zero mean: the offset of the f16 scale `d`,
# the offset of the f16 `dmin` (or `m`) and its ratio to `d`.
RANDOM_BLOCKS = {
    T.Q2_K: (80, 82, 1.5),
    T.Q3_K: (108, None, 0),
    T.Q4_K: (0, 2, 7.5),
    T.Q5_K: (0, 2, 15.5),
    T.Q6_K: (208, None, 0),
    T.IQ1_S: (0, None, 0),
    T.IQ2_XXS: (0, None, 0),
    T.IQ2_XS: (0, None, 0),
    T.IQ2_S: (0, None, 0),
    T.IQ3_XXS: (0, None, 0),
    T.IQ3_S: (0, None, 0),
    T.IQ4_NL: (0, None, 0),
    T.IQ4_XS: (0, None, 0),
    T.Q1_0: (0, None, 0),
}


def half_bytes(values):
    return np.asarray(values, np.float16).view(np.uint8).reshape(-1, 2)


def random_blocks(rng, kind, rows, cols, std):
    """Random codes under scales that give weights of about the wanted standard deviation."""
    block_len, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    n_blocks = rows * cols // block_len
    blocks = rng.integers(0, 256, (n_blocks, block_bytes), np.uint8)
    jitter = rng.uniform(0.7, 1.3, n_blocks)
    if kind == T.NVFP4:
        # Four UE4M3 scales; 0x20..0x27 is 0.125 .. 0.234 (exponent 4, any mantissa).
        blocks[:, 0:4] = 0x20 + (blocks[:, 0:4] & 7)
    elif kind == T.IQ1_M:
        # The f16 scale is spread over the top nibbles of the four u16 scale words.
        set_iq1_m_scale(blocks, np.ones(n_blocks))
        unit = gguf.quants.dequantize(blocks, kind).std()
        set_iq1_m_scale(blocks, std / unit * jitter)
    else:
        d_at, m_at, ratio = RANDOM_BLOCKS[kind]

        def set_scale(scale):
            blocks[:, d_at : d_at + 2] = half_bytes(scale)
            if m_at is not None:
                blocks[:, m_at : m_at + 2] = half_bytes(scale * ratio)

        set_scale(np.ones(n_blocks))
        unit = 1.0 if kind == T.Q1_0 else gguf.quants.dequantize(blocks, kind).std()
        set_scale(std / unit * jitter)
    return blocks.reshape(rows, -1)


def set_iq1_m_scale(blocks, scale):
    bits = np.asarray(scale, np.float16).view(np.uint16)
    for word in range(4):
        high = 48 + 2 * word + 1
        nibble = ((bits >> (4 * word)) & 15).astype(np.uint8)
        blocks[:, high] = (blocks[:, high] & 0x0F) | (nibble << 4)


class Model:
    def __init__(self, folder, name, arch, n_embd, n_ff, n_layer, n_head, n_head_kv, head, weight, tied, spm=False,
                 context=128):
        self.arch, self.n_embd, self.n_ff, self.n_layer = arch, n_embd, n_ff, n_layer
        self.n_head, self.n_head_kv, self.head, self.weight, self.tied = n_head, n_head_kv, head, weight, tied
        self.rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
        self.out = gguf.GGUFWriter(folder / f"{name}.gguf", arch)
        self.out.add_name(f"tiny random {name}")
        self.out.add_context_length(context)
        self.out.add_embedding_length(n_embd)
        self.out.add_block_count(n_layer)
        self.out.add_feed_forward_length(n_ff)
        self.out.add_head_count(n_head)
        self.out.add_head_count_kv(n_head_kv)
        self.out.add_layer_norm_rms_eps(1e-5)
        if head * n_head != n_embd:
            self.out.add_key_length(head)
            self.out.add_value_length(head)
        (self.spm_vocabulary if spm else self.bpe_vocabulary)()

    def bpe_vocabulary(self):
        printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        spare = iter(range(256, 512))
        tokens = [chr(b) if b in printable else chr(next(spare)) for b in range(256)]
        space = tokens[32]
        merges = [("t", "h"), ("th", "e"), (space, "the"), ("i", "n"), ("e", "r"), (space, "a"), ("o", "n"), ("r", "e"),
                  ("n", "d"), (space, "s"), ("i", "s"), ("o", "r"), (space, "w"), ("e", "s")]
        tokens += [a + b for a, b in merges] + ["<|start|>", "<|end|>"]
        kinds = [gguf.TokenType.NORMAL] * (N_VOCAB - 2) + [gguf.TokenType.CONTROL] * 2
        self.out.add_tokenizer_model("gpt2")
        self.out.add_tokenizer_pre("qwen2" if self.arch.startswith("qwen") else "llama-bpe")
        self.out.add_token_list(tokens)
        self.out.add_token_types(kinds)
        self.out.add_token_merges([f"{a} {b}" for a, b in merges])
        self.out.add_bos_token_id(N_VOCAB - 2)
        self.out.add_eos_token_id(N_VOCAB - 1)
        assert len(tokens) == N_VOCAB

    def spm_vocabulary(self):
        pieces = ["▁", "e", "t", "a", "o", "▁t", "he", "▁the", "in", "er", "n", "s", "▁a"]
        tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] + pieces
        kinds = [gguf.TokenType.UNKNOWN] + [gguf.TokenType.CONTROL] * 2
        kinds += [gguf.TokenType.BYTE] * 256 + [gguf.TokenType.NORMAL] * len(pieces)
        self.out.add_tokenizer_model("llama")
        self.out.add_token_list(tokens)
        self.out.add_token_scores([0.0] * 259 + [-1.0 - i for i in range(len(pieces))])
        self.out.add_token_types(kinds)
        self.out.add_bos_token_id(1)
        self.out.add_eos_token_id(2)
        self.out.add_unk_token_id(0)
        self.out.add_add_bos_token(True)
        assert len(tokens) == N_VOCAB

    def f32(self, name, values):
        self.out.add_tensor(name, np.asarray(values, np.float32))

    def norm(self, name, length):
        self.f32(name, 1 + 0.2 * self.rng.standard_normal(length))

    def bias(self, name, length):
        self.f32(name, 0.3 * self.rng.standard_normal(length))

    def matrix(self, name, cols, rows, kind=None, gain=1.2):
        """A weight with dims {cols, rows}: standard deviation gain / sqrt(cols)."""
        kind, std = kind or self.weight, gain / math.sqrt(cols)
        if kind in RANDOM_BLOCKS or kind in (T.IQ1_M, T.NVFP4):
            data = random_blocks(self.rng, kind, rows, cols, std)
        else:
            values = (std * self.rng.standard_normal((rows, cols))).astype(np.float32)
            data = gguf.quants.quantize(values, kind)
        self.out.add_tensor(name, data, raw_dtype=kind)

    def ends(self, kind=None):
        self.matrix("token_embd.weight", self.n_embd, N_VOCAB, kind, gain=3)
        self.norm("output_norm.weight", self.n_embd)
        if not self.tied:
            self.matrix("output.weight", self.n_embd, N_VOCAB, kind, gain=3)

    def experts(self, prefix, n, kinds):
        """A router whose choices are clear, and `n` experts; the last kind is that of the way down."""
        self.f32(prefix + "ffn_gate_inp.weight", self.rng.standard_normal((n, self.n_embd)) * (3 / math.sqrt(self.n_embd)))
        shapes = {"ffn_gate_exps": (self.n_embd, self.n_ff), "ffn_up_exps": (self.n_embd, self.n_ff),
                  "ffn_down_exps": (self.n_ff, self.n_embd)}
        for (name, (cols, rows)), kind in zip(shapes.items(), kinds, strict=True):
            values = self.rng.standard_normal((n, rows, cols)) * (2 / math.sqrt(cols))
            data = gguf.quants.quantize(values.astype(np.float32), kind)
            self.out.add_tensor(prefix + name + ".weight", data, raw_dtype=kind)

    def layers(self, biases=(), extra_norms=(), kinds=None, n_expert=0, expert_kinds=()):
        kinds = iter(kinds or [self.weight] * (7 * self.n_layer))
        q, kv = self.head * self.n_head, self.head * self.n_head_kv
        for i in range(self.n_layer):
            b = f"blk.{i}."
            self.norm(b + "attn_norm.weight", self.n_embd)
            self.norm(b + "ffn_norm.weight", self.n_embd)
            shapes = {"attn_q": (self.n_embd, q), "attn_k": (self.n_embd, kv), "attn_v": (self.n_embd, kv),
                      "attn_output": (q, self.n_embd)}
            if not n_expert:
                shapes |= {"ffn_gate": (self.n_embd, self.n_ff), "ffn_up": (self.n_embd, self.n_ff),
                           "ffn_down": (self.n_ff, self.n_embd)}
            for name, (cols, rows) in shapes.items():
                self.matrix(b + name + ".weight", cols, rows, next(kinds))
                if name in biases:
                    self.bias(b + name + ".bias", rows)
            if n_expert:
                self.experts(b, n_expert, expert_kinds)
            for name in extra_norms:
                self.norm(b + name + ".weight", self.head if name in HEAD_NORMS else self.n_embd)

    def write(self):
        self.out.write_header_to_file()
        self.out.write_kv_data_to_file()
        self.out.write_tensors_to_file()
        self.out.close()


def llama3_freqs(n_rot, base=500000.0, factor=8.0, low=1.0, high=4.0, original=32):
    """The per-pair divisors that Llama 3.1 conversions store in rope_freqs.weight."""
    out = []
    for i in range(0, n_rot, 2):
        wavelength = 2 * math.pi * base ** (i / n_rot)
        if wavelength < original / high:
            out.append(1.0)
        elif wavelength > original / low:
            out.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            out.append(1 / ((1 - smooth) / factor + smooth))
    return out


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)

    m = Model(folder, "llama-freqs", "llama", 32, 64, 2, 4, 1, 32, T.Q8_0, tied=False)
    m.out.add_rope_freq_base(500000.0)
    m.ends()
    m.f32("rope_freqs.weight", llama3_freqs(32))
    m.layers()
    m.write()

    m = Model(folder, "llama-linear", "llama", 32, 32, 2, 2, 2, 16, T.F16, tied=True, spm=True)
    m.out.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    m.out.add_rope_scaling_factor(4.0)
    m.ends(T.Q8_0)
    m.layers()
    m.write()

    m = Model(folder, "llama-yarn-biases", "llama", 64, 32, 3, 2, 1, 32, T.Q4_0, tied=True)
    m.out.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    m.out.add_rope_scaling_factor(4.0)
    m.out.add_rope_scaling_attn_factors(0.9)
    m.out.add_rope_scaling_orig_ctx_len(32)
    m.ends()
    m.layers(biases=("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"))
    m.write()

    # A head of 48 leaves a rest of 16 in dot products over 32; scaling type "none" ignores the factor.
    m = Model(folder, "llama-head48", "llama", 32, 32, 2, 3, 1, 48, T.BF16, tied=True)
    m.out.add_rope_scaling_type(gguf.RopeScalingType.NONE)
    m.out.add_rope_scaling_factor(4.0)
    m.ends()
    m.layers()
    m.write()

    m = Model(folder, "qwen2-tied", "qwen2", 64, 32, 2, 2, 1, 32, T.Q5_0, tied=True)
    m.out.add_rope_freq_base(1000000.0)
    m.ends()
    m.layers(biases=("attn_q", "attn_k", "attn_v"))
    m.write()

    m = Model(folder, "qwen2-untied-yarn", "qwen2", 64, 32, 2, 2, 2, 32, T.Q4_1, tied=False)
    m.out.add_rope_freq_base(1000000.0)
    m.out.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    m.out.add_rope_scaling_factor(4.0)
    m.out.add_rope_scaling_orig_ctx_len(32)
    m.ends()
    m.bias("output.bias", N_VOCAB)
    m.layers(biases=("attn_q", "attn_k", "attn_v"))
    m.write()

    # Heads wider than the embedding's share, as the real ones are.
    m = Model(folder, "qwen3-tied", "qwen3", 64, 96, 2, 4, 2, 32, T.Q5_0, tied=True)
    m.out.add_rope_freq_base(1000000.0)
    m.ends()
    m.layers(extra_norms=HEAD_NORMS)
    m.write()

    # Eight experts, two of them used; each of the three matrices of another type.
    m = Model(folder, "qwen3moe", "qwen3moe", 64, 32, 3, 4, 2, 32, T.Q8_0, tied=False)
    m.out.add_rope_freq_base(1000000.0)
    m.out.add_expert_count(8)
    m.out.add_expert_used_count(2)
    m.out.add_expert_feed_forward_length(32)
    m.ends()
    m.layers(extra_norms=HEAD_NORMS, n_expert=8, expert_kinds=(T.Q4_0, T.Q4_1, T.Q5_0))
    m.write()

    # Layer 5 is global, the other six are local.
    m = Model(folder, "gemma3-window", "gemma3", 32, 32, 7, 2, 1, 32, T.Q5_0, tied=True, spm=True)
    m.out.add_rope_freq_base(1000000.0)
    m.out.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    m.out.add_rope_scaling_factor(8.0)
    m.out.add_sliding_window(16)
    m.ends()
    m.layers(extra_norms=GEMMA_NORMS)
    m.write()

    m = Model(folder, "gemma3-pattern-softcap", "gemma3", 32, 32, 4, 2, 1, 32, T.Q8_0, tied=False, spm=True)
    m.out.add_rope_freq_base(1000000.0)
    m.out.add_float32("gemma3.rope.freq_base_swa", 5000.0)
    m.out.add_sliding_window(8)
    m.out.add_sliding_window_pattern([True, False, True, False])
    m.out.add_final_logit_softcapping(5.0)
    m.ends()
    m.layers(extra_norms=GEMMA_NORMS)
    m.write()

    m = Model(folder, "gemma3-global", "gemma3", 32, 32, 2, 1, 1, 64, T.Q4_1, tied=True, spm=True)
    m.out.add_rope_freq_base(1000000.0)
    m.ends()
    m.layers(extra_norms=GEMMA_NORMS)
    m.write()

    # Every weight type once. Rows of 256 for the types with blocks of 64 to 256, rows of 32 for the others.
    m = Model(folder, "llama-types", "llama", 256, 32, 4, 1, 1, 32, T.Q8_0, tied=True)
    m.ends(T.Q2_K)
    m.layers(kinds=[
        T.Q3_K, T.Q4_K, T.Q5_K, T.Q4_0, T.Q6_K, T.IQ4_XS, T.Q4_1,
        T.IQ3_S, T.IQ2_S, T.IQ1_M, T.Q5_0, T.IQ3_XXS, T.IQ2_XS, T.Q5_1,
        T.IQ2_XXS, T.IQ1_S, T.TQ2_0, T.IQ4_NL, T.TQ1_0, T.NVFP4, T.MXFP4,
        T.Q1_0, T.F32, T.Q2_K, T.Q8_0, T.F16, T.IQ4_XS, T.Q8_0,
    ])
    m.write()


if __name__ == "__main__":
    main()
