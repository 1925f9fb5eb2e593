"""Trains a small SentencePiece BPE vocabulary on a text in the public domain and records what SentencePiece makes of
texts with it: sentencepiece.json. Settings as for LLaMA 2: byte fallback, no normalisation, a space in front.

    python make_sentencepiece.py text.txt    (the decoded validation text of models/shakespeare)
"""

import io
import json
import random
import sys

import sentencepiece as spm

text = open(sys.argv[1], encoding="utf-8").read()[:400_000]
model = io.BytesIO()
spm.SentencePieceTrainer.train(
    sentence_iterator=iter([line for line in text.split("\n") if line] + ["äöü é 日本", "12 345 6789"] * 20),
    model_writer=model,
    model_type="bpe",
    vocab_size=1200,
    byte_fallback=True,
    normalization_rule_name="identity",
    remove_extra_whitespaces=False,
    add_dummy_prefix=True,
    allow_whitespace_only_pieces=True,
    split_digits=True,
    character_coverage=0.9995,
    num_threads=1,
)
processor = spm.SentencePieceProcessor(model_proto=model.getvalue())
ids = range(processor.get_piece_size())


def kind(i):
    if processor.is_unknown(i):
        return 2
    if processor.is_control(i):
        return 3
    if processor.is_byte(i):
        return 6
    return 1


rng = random.Random(7)
texts = ["", " ", "  ", "\n", "a", "Hello world", "To be, or not to be", "  two  spaces ", "\t tab\n\nlines\n",
         "<s>", "</s>", "<unk>", "<0x0A>", "日本語", "é\u0301", "😀 and 😀😀", "1234567", "it's", "ROMEO:\nSpeak again",
         " " * 40, "a" * 100, "ab" * 60, "the" * 30, "\u00a0x\u3000y", "Ünïcödé äöü", "x\u0000y"]
lines = [line for line in text.split("\n") if line.strip()]
texts += rng.sample(lines, 150)
alphabet = list("abcdefghij   \n,.'!éäß日本😀019<>_\t")
texts += ["".join(rng.choices(alphabet, k=rng.randint(1, 40))) for _ in range(150)]
vectors = {
    "tokens": [processor.id_to_piece(i) for i in ids],
    "scores": [processor.get_score(i) for i in ids],
    "types": [kind(i) for i in ids],
    "cases": [{"text": t, "ids": processor.encode(t)} for t in texts],
}
with open("sentencepiece.json", "w", encoding="utf-8") as out:
    json.dump(vectors, out, ensure_ascii=False, indent=0)
    out.write("\n")
