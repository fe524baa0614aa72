#!/usr/bin/env python3
"""Writes llama-262144.gguf, a tiny random-weight model with a context of 262,144 tokens: `make.py OUT_DIR` (needs what
../tiny/make.py needs). Weights are F16, so that not even the smallest change of a distant token is rounded away.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tiny"))
from make import Model, T  # noqa: E402

folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
model = Model(folder, "llama-262144", "llama", 64, 64, 2, 2, 2, 32, T.F16, tied=True, spm=True, context=262144)
model.out.add_rope_freq_base(1000000.0)
model.ends()
model.layers()
model.write()
