"""Writes quant_vectors_gguf_py.{json,bin}: blocks of random bytes of every quantised type and what the `gguf` package
makes of them.

The bytes are random, so that every bit of a block matters; only the f16 factors are drawn from finite numbers of
ordinary size. Run with the package `gguf` 0.19: python make_quant_vectors.py
"""

import json
import pathlib

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.quants import dequantize

# Type, elements and bytes of a block, offsets of the f16 factors.
TYPES = [
    (T.Q4_0, 32, 18, [0]),
    (T.Q4_1, 32, 20, [0, 2]),
    (T.Q5_0, 32, 22, [0]),
    (T.Q5_1, 32, 24, [0, 2]),
    (T.Q8_0, 32, 34, [0]),
    (T.Q4_K, 256, 144, [0, 2]),
    (T.Q5_K, 256, 176, [0, 2]),
    (T.Q6_K, 256, 210, [208]),
    (T.TQ1_0, 256, 54, [52]),
    (T.TQ2_0, 256, 66, [64]),
    (T.BF16, 1, 2, []),
    (T.F16, 1, 2, []),
]


def main():
    rng = np.random.default_rng(1)
    here = pathlib.Path(__file__).parent
    index, blob = [], bytearray()
    rows, cols = 2, 512
    for ty, elements, size, factors in TYPES:
        blocks = rows * cols // elements
        raw = rng.integers(0, 256, (blocks, size), dtype=np.uint8)
        if not factors:
            values = rng.standard_normal(blocks).astype(np.float32)
            bits = values.astype(np.float16).view(np.uint16) if ty == T.F16 else values.view(np.uint32) >> 16
            raw = np.ascontiguousarray(bits.astype(np.uint16)).view(np.uint8).reshape(blocks, size)
        for at in factors:
            values = rng.standard_normal(blocks).astype(np.float16)
            raw[:, at : at + 2] = values.view(np.uint8).reshape(blocks, 2)
        raw = raw.reshape(rows, -1)
        values = dequantize(raw, ty).astype(np.float32).reshape(-1)
        entry = {"name": ty.name, "ggml_type": int(ty), "ne": [cols, rows], "n": rows * cols}
        entry["raw_off"], entry["raw_len"] = len(blob), raw.size
        blob += raw.tobytes()
        entry["f32_off"] = len(blob)
        blob += values.astype("<f4").tobytes()
        index.append(entry)
    (here / "quant_vectors_gguf_py.bin").write_bytes(bytes(blob))
    (here / "quant_vectors_gguf_py.json").write_text(json.dumps(index, indent=1) + "\n")


main()
