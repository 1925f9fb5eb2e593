"""Writes checkpoints/*: small random models as Hugging Face directories, the same models as GGUF files, and their logits
by the implementation in numpy of make_architectures.py.

The directories are written by the packages `safetensors` and `tokenizers`; weights are packed as `pack_weights` in
`transformers/integrations/bitnet.py` does, and master weights are such that `WeightQuant` there makes them the ternary
weights of the GGUF file. Scales are bfloat16 numbers and so are their inverses (powers of two, for the class that divides
by them), so that both forms hold the same numbers and logits have to be equal bit by bit.

Run with numpy, `gguf` 0.19, `safetensors` 0.8 and `tokenizers` 0.23: python make_checkpoints.py
"""

import json
import pathlib
import shutil

import numpy as np
from safetensors import TensorSpec, serialize_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from make_architectures import COMMON, F32, Model, Writer

HERE = pathlib.Path(__file__).parent / "checkpoints"
I2_S, BF16 = 36, 30
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MERGES = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("i", "n"), ("in", "g")]
TEMPLATE = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '<|eot_id|>' }}{% endfor %}"

PLACES = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "attn_sub_norm": "self_attn.attn_sub_norm",
    "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj", "ffn_sub_norm": "mlp.ffn_sub_norm",
}  # fmt: skip


def to_bf16(values):
    """Rounded half to even, as bits."""
    bits = np.asarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def pack(codes):
    quarter = codes.shape[0] // 4
    fields = [(codes[i * quarter : (i + 1) * quarter] + 1).astype(np.uint8) << (2 * i) for i in range(4)]
    return fields[0] | fields[1] | fields[2] | fields[3]


def i2_s(codes, scale):
    n = codes.size
    blocks = (codes + 1).astype(np.uint8).reshape(n // 128, 4, 32)
    packed = blocks[:, 0] << 6 | blocks[:, 1] << 4 | blocks[:, 2] << 2 | blocks[:, 3]
    return packed.tobytes() + np.float32(scale).tobytes() + bytes(28)


def masters(rng, codes, scale):
    """bfloat16 weights that are rounded to these codes, with this mean magnitude exactly.

    Half of the codes are zeros. Their weights have the magnitude scale / 4; those of the others, scale * 1.625 and
    scale * 1.875 in equal numbers, so that the mean of all is the scale.
    """
    others = rng.permutation(np.flatnonzero(codes))
    assert 2 * others.size == codes.size
    weights = rng.choice([-0.25, 0.25], codes.size)
    weights[others[0::2]], weights[others[1::2]] = 1.625, 1.875
    weights[others] *= codes.reshape(-1)[others]
    weights = np.float32(weights * scale).reshape(codes.shape)
    assert np.array_equal(from_bf16(to_bf16(weights)), weights) and np.mean(np.abs(weights)) == scale
    return to_bf16(weights)


def vocabulary(size):
    spell = {b: chr(b) for b in [*range(33, 127), *range(161, 173), *range(174, 256)]}
    spell |= {b: chr(256 + i) for i, b in enumerate(b for b in range(256) if b not in spell)}
    words = [spell[b] for b in range(256)] + [a + b for a, b in MERGES]
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    return words, special, size - len(words) - len(special)


def write_tokenizer(folder, size):
    """Fewer tokens than rows of the embedding: the last rows have none."""
    words, special, _ = vocabulary(size)
    tokenizer = Tokenizer(models.BPE({w: i for i, w in enumerate(words)}, MERGES, ignore_merges=True))
    split = pre_tokenizers.Split(Regex(LLAMA3), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    template = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", len(words))]
    )
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    tokenizer.save(str(folder / "tokenizer.json"))
    texts = ["the thing, in 1234 words!", " Grüße\n\nund 日本語 ", "in<|eot_id|>the"]
    return [{"text": text, "ids": tokenizer.encode(text).ids} for text in texts]


def gguf(model, spec):
    s, w = spec, Writer()
    arch = s["arch"]
    w.key("general.architecture", "str", arch)
    for suffix, value in [
        ("vocab_size", s["vocab"]), ("context_length", 256), ("embedding_length", s["hidden"]),
        ("block_count", s["layers"]), ("feed_forward_length", s["ffn"]), ("attention.head_count", s["heads"]),
        ("attention.head_count_kv", s["kv_heads"]), ("rope.dimension_count", s["head"]),
    ]:  # fmt: skip
        w.key(f"{arch}.{suffix}", "u32", value)
    w.key(f"{arch}.attention.layer_norm_rms_epsilon", "f32", s["eps"])
    w.key(f"{arch}.rope.freq_base", "f32", s["theta"])
    words, special, unused = vocabulary(s["vocab"])
    first = len(words) + len(special)
    w.key("tokenizer.ggml.model", "str", "gpt2")
    w.key("tokenizer.ggml.pre", "str", "llama-bpe")
    w.key("tokenizer.ggml.tokens", "strings", words + special + [f"[PAD{first + i}]" for i in range(unused)])
    w.key("tokenizer.ggml.token_type", "i32s", [1] * len(words) + [3] * len(special) + [5] * unused)
    w.key("tokenizer.ggml.merges", "strings", [f"{a} {b}" for a, b in MERGES])
    for i, name in enumerate(["bos", "eos", "eot"]):
        w.key(f"tokenizer.ggml.{name}_token_id", "u32", len(words) + i)
    w.key("tokenizer.ggml.add_bos_token", "bool", True)
    w.key("tokenizer.chat_template", "str", TEMPLATE)
    w.tensor("token_embd.weight", [s["hidden"], s["vocab"]], BF16, to_bf16(model.embedding).tobytes())
    for i, layer in enumerate(model.layers):
        for name, value in layer.items():
            stem = f"blk.{i}.{name}.weight"
            if not isinstance(value, tuple):
                w.tensor(stem, [value.size], F32, value.tobytes())
                continue
            codes, scales = value
            if s["permuted"] and name in ("attn_q", "attn_k"):
                codes = codes.reshape(-1, 2, s["head"] // 2, codes.shape[1]).swapaxes(1, 2).reshape(codes.shape)
            w.tensor(stem, [codes.shape[1], codes.shape[0]], I2_S, i2_s(codes, scales[0, 0]))
    w.tensor("output_norm.weight", [s["hidden"]], F32, model.output_norm.tobytes())
    if not s["tied"]:
        w.tensor("output.weight", [s["hidden"], s["vocab"]], BF16, to_bf16(model.head).tobytes())
    return w.build()


def write_shards(folder, tensors, count):
    def save(path, part):
        # bfloat16 numbers are held as their bits.
        dtypes = {"uint16": "bfloat16", "uint8": "uint8"}
        part = {name: np.ascontiguousarray(x) for name, x in part.items()}
        specs = {
            name: TensorSpec(dtype=dtypes[x.dtype.name], shape=x.shape, data_ptr=x.ctypes.data, data_len=x.nbytes)
            for name, x in part.items()
        }
        serialize_file(specs, str(path), {"format": "pt"})

    if count == 1:
        save(folder / "model.safetensors", tensors)
        return
    names = sorted(tensors)
    parts = [names[i::count] for i in range(count)]
    files = [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    for file, part in zip(files, parts):
        save(folder / file, {name: tensors[name] for name in part})
    weight_map = {name: file for file, part in zip(files, parts) for name in part}
    total = sum(x.nbytes for x in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def checkpoint(model, spec, rng, folder):
    s = spec
    tensors = {"model.embed_tokens.weight": to_bf16(model.embedding), "model.norm.weight": to_bf16(model.output_norm)}
    if not s["tied"]:
        tensors["lm_head.weight"] = to_bf16(model.head)
    for i, layer in enumerate(model.layers):
        for name, value in layer.items():
            module = f"model.layers.{i}.{PLACES[name]}"
            if not isinstance(value, tuple):
                tensors[f"{module}.weight"] = to_bf16(value)
            elif s["stored"] == "online":
                tensors[f"{module}.weight"] = masters(rng, value[0], value[1][0, 0])
            else:
                scale = value[1][0, 0] if s["stored"] == "autobitlinear" else 1 / value[1][0, 0]
                tensors[f"{module}.weight"] = pack(value[0])
                tensors[f"{module}.weight_scale"] = to_bf16([scale])
    write_shards(folder, tensors, s["shards"])
    words, special, _ = vocabulary(s["vocab"])
    quantization = {"quant_method": "bitnet", "modules_to_not_convert": ["lm_head"]}
    if s["stored"] != "bitlinear":
        quantization["linear_class"] = "autobitlinear"
        quantization["quantization_mode"] = "online" if s["stored"] == "online" else "offline"
    config = {
        "architectures": [s["class"]], "attention_bias": False, "bos_token_id": len(words),
        "eos_token_id": [len(words) + 1, len(words) + 2], "hidden_act": s["activation"], "hidden_size": s["hidden"],
        "intermediate_size": s["ffn"], "max_position_embeddings": 256, "num_attention_heads": s["heads"],
        "num_hidden_layers": s["layers"], "num_key_value_heads": s["kv_heads"], "rms_norm_eps": s["eps"],
        "rope_theta": s["theta"], "tie_word_embeddings": s["tied"], "torch_dtype": "bfloat16",
        "vocab_size": s["vocab"], "quantization_config": quantization,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    texts = write_tokenizer(folder, s["vocab"])
    side = {"add_bos_token": True, "bos_token": special[0], "eos_token": {"content": special[1]}}
    if s["template_file"]:
        (folder / "chat_template.jinja").write_text(TEMPLATE)
    else:
        side["chat_template"] = TEMPLATE
    (folder / "tokenizer_config.json").write_text(json.dumps(side, indent=1) + "\n")
    return texts


SHAPE = {"hidden": 128, "heads": 4, "kv_heads": 2, "head": 32, "ffn": 128, "vocab": 272, "theta": 500000.0, "group": 0}
SPECS = {
    "bitnet_packed": {"arch": "bitnet-b1.58", "class": "BitNetForCausalLM", "activation": "relu2", "sub_norms": True,
                      "tied": True, "stored": "autobitlinear", "shards": 1, "template_file": False},
    "bitnet_master": {"arch": "bitnet-b1.58", "class": "BitNetForCausalLM", "activation": "relu2", "sub_norms": True,
                      "tied": True, "stored": "online", "shards": 1, "template_file": True, "layers": 1},
    "llama_packed": {"arch": "llama", "class": "LlamaForCausalLM", "activation": "silu", "tied": False,
                     "permuted": True, "stored": "bitlinear", "shards": 3, "template_file": False},
}  # fmt: skip


def prepare(model, spec, rng):
    """Makes every number one that both forms can hold."""
    for layer in model.layers:
        for name, value in layer.items():
            if not isinstance(value, tuple):
                layer[name] = from_bf16(to_bf16(value))
                continue
            codes, scales = value
            # Half of the weights are zero, and a scale is a power of two near the one that was drawn.
            flat = np.zeros(codes.size, codes.dtype)
            flat[: codes.size // 2] = rng.choice([-1, 1], codes.size // 2)
            codes[:] = rng.permutation(flat).reshape(codes.shape)
            scales[:] = 2.0 ** np.round(np.log2(scales[0, 0]))
    model.output_norm = from_bf16(to_bf16(model.output_norm))
    tied = model.head is model.embedding
    model.embedding = from_bf16(to_bf16(model.embedding))
    model.head = model.embedding if tied else from_bf16(to_bf16(model.head))


def main():
    for name, spec in SPECS.items():
        spec = COMMON | SHAPE | spec
        for seed in range(1000):
            rng = np.random.default_rng([seed, len(name), 7])
            model = Model(spec, rng)
            prepare(model, spec, rng)
            ids = [int(i) for i in rng.integers(0, 256, 6)]
            logits = model.logits(ids)
            if model.margin > 1:
                break
        else:
            raise SystemExit(f"{name}: no seed without a close call")
        folder = HERE / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        texts = checkpoint(model, spec, rng, folder)
        (HERE / f"{name}.gguf").write_bytes(gguf(model, spec))
        record = {"seed": seed, "ids": ids, "texts": texts, "std": float(logits.std()), "logits": np.round(logits, 6).tolist()}
        (HERE / f"{name}.json").write_text(json.dumps(record) + "\n")
        print(name, "seed", seed, "std", logits.std())


main()
