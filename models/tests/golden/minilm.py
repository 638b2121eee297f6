"""Writes minilm.json: token ids and vectors of all-MiniLM-L6-v2 for a few texts, in plain numpy float64.

It shares no code with the project: its own reading of safetensors, its own WordPiece, its own BERT.

    python3 minilm.py DIRECTORY_WITH_MODEL_FILES > minilm.json
"""

import base64
import json
import struct
import sys
import unicodedata
from math import erf
from pathlib import Path

import numpy as np

TEXTS = [
    "The weather is lovely today.",
    "It's so sunny outside!",
    "He drove to the stadium.",
    "This is an example sentence",
    "Each sentence is converted",
    "a",
    "Été à Zürich: 25 °C, naïve façade, ŁÓDŹ and the ﬁrst ½.",
    "東京タワーは高さ333メートルです。",
    "fn main() { println!(\"{:?}\", vec![0u8; 1 << 20]); }",
    "supercalifragilisticexpialidocious " + "x" * 120,
    "[SEP] [CLS] is text when a caller writes it",
    " ".join(f"Sentence number {i} says that rivers run to the sea." for i in range(21)),
]


def tensors(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    kinds = {"F32": "<f4", "I64": "<i8"}
    out = {}
    for name, info in header.items():
        start, end = (8 + length + at for at in info["data_offsets"])
        out[name] = np.frombuffer(data[start:end], kinds[info["dtype"]]).reshape(info["shape"]).astype(np.float64)
    return out


def is_punctuation(c):
    o = ord(c)
    return 33 <= o <= 47 or 58 <= o <= 64 or 91 <= o <= 96 or 123 <= o <= 126 or unicodedata.category(c)[0] == "P"


def is_ideograph(c):
    ranges = [(0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0xF900, 0xFAFF)]
    return any(low <= ord(c) <= high for low, high in ranges)


def words(text):
    """BERT's basic tokenizer: clean, lower, strip accents, split at spaces, punctuation and ideographs."""
    kept = []
    for c in text:
        if c in "\t\n\r" or unicodedata.category(c) == "Zs":
            kept.append(" ")
        elif unicodedata.category(c)[0] != "C" and c != "\ufffd":
            kept.append(f" {c} " if is_ideograph(c) else c)
    stripped = (c for c in unicodedata.normalize("NFD", "".join(kept)) if unicodedata.category(c) != "Mn")
    text = "".join(stripped).lower()
    return "".join(f" {c} " if is_punctuation(c) else c for c in text).split()


def pieces(word, vocab):
    if len(word) > 100:
        return ["[UNK]"]
    out, at = [], 0
    while at < len(word):
        for end in range(len(word), at, -1):
            piece = ("##" if at else "") + word[at:end]
            if piece in vocab:
                out.append(piece)
                at = end
                break
        else:
            return ["[UNK]"]
    return out


def norm(x, weight, bias):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-12) * weight + bias


def vector(ids, w, layers, heads):
    linear = lambda x, name: x @ w[name + ".weight"].T + w[name + ".bias"]
    layer_norm = lambda x, name: norm(x, w[name + ".weight"], w[name + ".bias"])
    e = "embeddings."
    x = w[e + "word_embeddings.weight"][ids] + w[e + "position_embeddings.weight"][: len(ids)]
    x = layer_norm(x + w[e + "token_type_embeddings.weight"][0], e + "LayerNorm")
    split = lambda x: x.reshape(len(ids), heads, -1).transpose(1, 0, 2)
    for i in range(layers):
        p = f"encoder.layer.{i}."
        q, k, v = (split(linear(x, p + "attention.self." + name)) for name in ("query", "key", "value"))
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        seen = (scores / scores.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(len(ids), -1)
        x = layer_norm(linear(seen, p + "attention.output.dense") + x, p + "attention.output.LayerNorm")
        inner = linear(x, p + "intermediate.dense")
        inner = inner / 2 * (1 + np.vectorize(erf)(inner / np.sqrt(2)))
        x = layer_norm(linear(inner, p + "output.dense") + x, p + "output.LayerNorm")
    mean = x.mean(0)
    return mean / np.linalg.norm(mean)


def main():
    directory = Path(sys.argv[1])
    config = json.loads((directory / "config.json").read_text())
    vocab = json.loads((directory / "tokenizer.json").read_text())["model"]["vocab"]
    w = tensors(directory / "model.safetensors")
    cases = []
    for text in TEXTS:
        ids = [vocab[piece] for word in words(text) for piece in pieces(word, vocab)]
        ids = [vocab["[CLS]"], *ids, vocab["[SEP]"]]
        out = vector(ids, w, config["num_hidden_layers"], config["num_attention_heads"])
        cases.append({"text": text, "tokens": ids, "vector": base64.b64encode(out.astype("<f4").tobytes()).decode()})
    json.dump(cases, sys.stdout, ensure_ascii=False, indent=1)
    print()


main()
