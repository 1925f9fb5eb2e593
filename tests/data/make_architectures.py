"""Writes architectures/*.gguf and *.json: a small random model of each architecture, and its logits by an implementation
in numpy that shares nothing with bitnetc: it follows the model's definition, with weights as they were before they were
converted (so LLaMA's queries and keys are permuted here, as its converter does, and the rotation is the unpermuted one).

Arithmetic is f64, but activations are quantised as f32 values. A seed is looked for with which no activation is so close
to the middle between two codes that the rounding errors of f32 arithmetic could decide.

Run with numpy and the package `gguf` 0.19 (for TQ1_0): python make_architectures.py
"""

import json
import pathlib
import struct

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.quants import dequantize, quantize

HERE = pathlib.Path(__file__).parent / "architectures"
F32, F16, Q8_0, TQ1_0, Q2_0 = 0, 1, 8, 34, 42


# ---------------------------------------------------------------------------------------------------- the container
class Writer:
    def __init__(self, version=3):
        self.version, self.keys, self.tensors = version, [], []

    def length(self, n):
        return struct.pack("<I" if self.version == 1 else "<Q", n)

    def string(self, text):
        raw = text.encode()
        return self.length(len(raw)) + raw

    def key(self, name, kind, value):
        plain = {"u32": (4, "<I"), "f32": (6, "<f"), "bool": (7, "<?")}
        if kind in plain:
            type_id, form = plain[kind]
            body = struct.pack(form, value)
        elif kind == "str":
            type_id, body = 8, self.string(value)
        elif kind == "strings":
            type_id = 9
            body = struct.pack("<I", 8) + self.length(len(value)) + b"".join(map(self.string, value))
        else:
            type_id = 9
            body = struct.pack("<I", 5) + self.length(len(value)) + struct.pack(f"<{len(value)}i", *value)
        self.keys.append(self.string(name) + struct.pack("<I", type_id) + body)

    def tensor(self, name, dims, type_id, raw):
        self.tensors.append((name, dims, type_id, raw))

    def build(self):
        out = b"GGUF" + struct.pack("<I", self.version) + self.length(len(self.tensors)) + self.length(len(self.keys))
        out += b"".join(self.keys)
        at = 0
        for name, dims, type_id, raw in self.tensors:
            out += self.string(name) + struct.pack("<I", len(dims)) + b"".join(map(self.length, dims))
            out += struct.pack("<IQ", type_id, at)
            at += (len(raw) + 31) // 32 * 32
        out += bytes(-len(out) % 32)
        for _, _, _, raw in self.tensors:
            out += raw + bytes(-len(raw) % 32)
        return out


# --------------------------------------------------------------------------------------------- how a matrix is stored
def ternary(rng, rows, cols, group):
    """Codes, and a scale for each group of columns, an f16 number."""
    codes = rng.integers(-1, 2, (rows, cols)).astype(np.float64)
    # No block without a weight: it would not say its scale.
    codes[:, ::64] = 1
    scales = (rng.uniform(0.5, 1.5, (rows, cols // group)) / np.sqrt(cols)).astype(np.float16).astype(np.float64)
    return codes, scales


def store_f16(codes, scales):
    return codes.astype(np.float16).tobytes(), F16


def store_tq1(codes, scales):
    values = (codes * np.repeat(scales, codes.shape[1] // scales.shape[1], axis=1)).astype(np.float32)
    raw = quantize(values, T.TQ1_0)
    assert np.array_equal(dequantize(raw, T.TQ1_0), values)
    return raw.tobytes(), TQ1_0


def store_q2(codes, scales):
    rows, cols = codes.shape
    blocks = (codes + 1).astype(np.uint8).reshape(rows, cols // 128, 32, 4)
    packed = blocks[..., 0] | blocks[..., 1] << 2 | blocks[..., 2] << 4 | blocks[..., 3] << 6
    d = scales.astype(np.float16)[..., None].view(np.uint8)
    return np.concatenate([d, packed], axis=-1).tobytes(), Q2_0


# ------------------------------------------------------------------------------------------------------- the function
class Model:
    def __init__(self, spec, rng):
        self.s = spec
        self.margin = np.inf
        s = spec
        width, kv = s["heads"] * s["head"], s["kv_heads"] * s["head"]
        shapes = {
            "attn_q": (width, s["hidden"]), "attn_k": (kv, s["hidden"]), "attn_v": (kv, s["hidden"]),
            "attn_output": (s["hidden"], width), "ffn_gate": (s["ffn"], s["hidden"]),
            "ffn_up": (s["ffn"], s["hidden"]), "ffn_down": (s["hidden"], s["ffn"]),
        }  # fmt: skip
        norms = {"attn_norm": s["hidden"], "ffn_norm": s["hidden"]}
        if s["sub_norms"]:
            norms |= {"attn_sub_norm": width, "ffn_sub_norm": s["ffn"]}
        if s["head_norms"]:
            norms |= {"attn_q_norm": s["head"], "attn_k_norm": s["head"]}
        self.layers = []
        for _ in range(s["layers"]):
            layer = {}
            for name, (rows, cols) in shapes.items():
                codes, scales = ternary(rng, rows, cols, s["group"] or cols)
                if not s["group"]:
                    scales[:] = scales[0, 0]
                layer[name] = (codes, scales)
            for name, n in norms.items():
                layer[name] = rng.normal(1, 0.2, n).astype(np.float32)
            self.layers.append(layer)
        self.output_norm = rng.normal(1, 0.2, s["hidden"]).astype(np.float32)
        self.embedding = rng.normal(0, 1, (s["vocab"], s["hidden"])).astype(np.float16)
        self.head = self.embedding if s["tied"] else rng.normal(0, 1, self.embedding.shape).astype(np.float16)
        if s["table"] == "q8_0":
            self.embedding = dequantize(quantize(self.embedding.astype(np.float32), T.Q8_0), T.Q8_0)

    def norm(self, x, w):
        return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + self.s["eps"]) * w.astype(np.float64)

    def linear(self, x, weight):
        codes, scales = weight
        x = x.astype(np.float32).astype(np.float64)
        a = 127 / np.maximum(np.max(np.abs(x), axis=-1, keepdims=True), 1e-5)
        v = x * a
        distance = np.abs(np.abs(v - np.floor(v)) - 0.5)
        self.margin = min(self.margin, np.min(distance / (3e-6 * np.abs(v) + 2e-6)))
        q = np.clip(np.rint(v), -128, 127)
        group = codes.shape[1] // scales.shape[1]
        parts = [
            (q[:, g * group : (g + 1) * group] @ codes[:, g * group : (g + 1) * group].T) * scales[:, g]
            for g in range(scales.shape[1])
        ]
        return sum(parts) / a

    def rotate(self, x):
        # The definition of transformers: halves of a head, before any permutation.
        n, d = x.shape[0], self.s["head"]
        angle = np.arange(n)[:, None] * self.s["theta"] ** (-2 * np.arange(d // 2) / d)
        cos, sin = np.cos(angle)[:, None, :], np.sin(angle)[:, None, :]
        first, second = x[..., : d // 2], x[..., d // 2 :]
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    def logits(self, ids):
        s = self.s
        x = self.embedding[ids].astype(np.float64)
        n = len(ids)
        mask = np.triu(np.full((n, n), -np.inf), 1)
        for layer in self.layers:
            h = self.norm(x, layer["attn_norm"])
            heads = lambda y, count: y.reshape(n, count, s["head"])
            q = heads(self.linear(h, layer["attn_q"]), s["heads"])
            k = heads(self.linear(h, layer["attn_k"]), s["kv_heads"])
            v = heads(self.linear(h, layer["attn_v"]), s["kv_heads"])
            if s["head_norms"]:
                q, k = self.norm(q, layer["attn_q_norm"]), self.norm(k, layer["attn_k_norm"])
            q, k = self.rotate(q), self.rotate(k)
            share = s["heads"] // s["kv_heads"]
            outputs = []
            for head in range(s["heads"]):
                scores = q[:, head] @ k[:, head // share].T / np.sqrt(s["head"]) + mask
                p = np.exp(scores - scores.max(axis=-1, keepdims=True))
                outputs.append(p / p.sum(axis=-1, keepdims=True) @ v[:, head // share])
            o = np.concatenate(outputs, axis=-1)
            if s["sub_norms"]:
                o = self.norm(o, layer["attn_sub_norm"])
            x = x + self.linear(o, layer["attn_output"])
            h = self.norm(x, layer["ffn_norm"])
            gate = self.linear(h, layer["ffn_gate"])
            gate = gate / (1 + np.exp(-gate)) if s["activation"] == "silu" else np.maximum(gate, 0) ** 2
            f = gate * self.linear(h, layer["ffn_up"])
            if s["sub_norms"]:
                f = self.norm(f, layer["ffn_sub_norm"])
            x = x + self.linear(f, layer["ffn_down"])
        return self.norm(x, self.output_norm) @ self.head.astype(np.float64).T

    def write(self):
        s, w = self.s, Writer(self.s["version"])
        arch = s["arch"]
        w.key("general.architecture", "str", arch)
        w.key("general.name", "str", "random " + arch)
        for suffix, value in [
            ("vocab_size", s["vocab"]), ("context_length", 256), ("embedding_length", s["hidden"]),
            ("block_count", s["layers"]), ("feed_forward_length", s["ffn"]), ("attention.head_count", s["heads"]),
            ("attention.head_count_kv", s["kv_heads"]), ("rope.dimension_count", s["head"]),
            ("attention.key_length", s["head"]), ("attention.value_length", s["head"]),
        ]:  # fmt: skip
            w.key(f"{arch}.{suffix}", "u32", value)
        w.key(f"{arch}.attention.layer_norm_rms_epsilon", "f32", s["eps"])
        w.key(f"{arch}.rope.freq_base", "f32", s["theta"])
        if s.get("activation_key"):
            w.key(f"{arch}.hidden_activation", "str", s["activation"])
        spell = {b: chr(b) for b in [*range(33, 127), *range(161, 173), *range(174, 256)]}
        others = [b for b in range(256) if b not in spell]
        spell |= {b: chr(256 + i) for i, b in enumerate(others)}
        tokens = [spell[b] for b in range(256)] + [f"<|extra_{i}|>" for i in range(s["vocab"] - 257)] + ["<|endoftext|>"]
        w.key("tokenizer.ggml.model", "str", "gpt2")
        w.key("tokenizer.ggml.pre", "str", s["pre"])
        w.key("tokenizer.ggml.tokens", "strings", tokens)
        w.key("tokenizer.ggml.token_type", "i32s", [1] * 256 + [3] * (s["vocab"] - 256))
        w.key("tokenizer.ggml.merges", "strings", [])
        w.key("tokenizer.ggml.eos_token_id", "u32", s["vocab"] - 1)
        w.key("tokenizer.ggml.add_bos_token", "bool", False)

        def table(name, values):
            if s["table"] == "q8_0" and name == "token_embd.weight":
                raw, kind = quantize(values.astype(np.float32), T.Q8_0).tobytes(), Q8_0
            else:
                raw, kind = values.astype(np.float16).tobytes(), F16
            w.tensor(name, [s["hidden"], s["vocab"]], kind, raw)

        table("token_embd.weight", self.embedding)
        for i, layer in enumerate(self.layers):
            for name, value in layer.items():
                stem = f"blk.{i}.{name}"
                if not isinstance(value, tuple):
                    w.tensor(stem + ".weight", [value.size], F32, value.tobytes())
                    continue
                codes, scales = value
                if s["permuted"] and name in ("attn_q", "attn_k"):
                    rows, cols = codes.shape
                    order = np.arange(rows).reshape(-1, 2, s["head"] // 2).swapaxes(1, 2).reshape(-1)
                    codes, scales = codes[order], scales[order]
                raw, kind = s["store"](codes, scales)
                w.tensor(stem + ".weight", [codes.shape[1], codes.shape[0]], kind, raw)
                if s["scale_tensors"]:
                    w.tensor(stem + ".scale", [1], F32, np.float32(scales[0, 0]).tobytes())
        w.tensor("output_norm.weight", [s["hidden"]], F32, self.output_norm.tobytes())
        if not s["tied"]:
            table("output.weight", self.head)
        return w.build()


COMMON = {"layers": 2, "vocab": 300, "eps": 1e-5, "table": "f16", "scale_tensors": False, "permuted": False,
          "sub_norms": False, "head_norms": False, "version": 3, "pre": "llama-bpe"}  # fmt: skip
SPECS = {
    # Weights of -1, 0 and 1 with their scales in tensors of their own, SiLU by the key's absence; a version 1 file.
    "bitnet_silu": {"arch": "bitnet", "hidden": 128, "heads": 4, "kv_heads": 4, "head": 32, "ffn": 128, "theta": 10000.0,
                    "activation": "silu", "sub_norms": True, "tied": True, "store": store_f16, "group": 0,
                    "scale_tensors": True, "version": 1},
    "bitnet_relu2": {"arch": "bitnet", "hidden": 256, "heads": 4, "kv_heads": 2, "head": 64, "ffn": 256, "theta": 10000.0,
                     "activation": "relu2", "activation_key": True, "sub_norms": True, "tied": True, "store": store_tq1,
                     "group": 0},
    "llama": {"arch": "llama", "hidden": 256, "heads": 4, "kv_heads": 2, "head": 64, "ffn": 256, "theta": 500000.0,
              "activation": "silu", "tied": False, "store": store_tq1, "group": 0, "permuted": True, "table": "q8_0"},
    "qwen3": {"arch": "qwen3", "hidden": 128, "heads": 4, "kv_heads": 2, "head": 64, "ffn": 256, "theta": 1000000.0,
              "activation": "silu", "tied": True, "store": store_q2, "group": 128, "head_norms": True, "eps": 1e-6,
              "pre": "qwen2"},
}  # fmt: skip


def main():
    HERE.mkdir(exist_ok=True)
    for name, spec in SPECS.items():
        spec = COMMON | spec
        for seed in range(1000):
            rng = np.random.default_rng([seed, len(name)])
            model = Model(spec, rng)
            ids = [int(i) for i in rng.integers(0, 256, 6)]
            logits = model.logits(ids)
            if model.margin > 1:
                break
        else:
            raise SystemExit(f"{name}: no seed without a close call")
        (HERE / f"{name}.gguf").write_bytes(model.write())
        record = {"seed": seed, "ids": ids, "std": float(logits.std()), "logits": np.round(logits, 6).tolist()}
        (HERE / f"{name}.json").write_text(json.dumps(record) + "\n")
        print(name, "seed", seed, "std", logits.std())


if __name__ == "__main__":
    main()
