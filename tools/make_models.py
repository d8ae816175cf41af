#!/usr/bin/env python3
"""Make the small demonstration models in models/.

    pip install 'mlx[cpu]==0.32.4'
    python tools/make_models.py

Writes, for each model, NAME.mlxfn and NAME.safetensors (a sample call: in.0,
..., out.0, ...), and a manifest.json that lists them:

    a      "detector": a convolutional image classifier, about 22 MFLOP a call
    b      "encoder":  a transformer text encoder, about 22 MFLOP a call
    tiny   a two-layer perceptron: a few microseconds of arithmetic

a and b cost about the same, so that the two together make a fair throughput
demonstration. The weights are random (seeded): the models compute something,
but know nothing.

The weights and samples are the same on every run. The bytes of the .mlxfn files
are not: MLX stores memory addresses in them as identifiers.
"""

import argparse
import json
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn

MLX_VERSION = "0.32.4"
TOLERANCE = {"float32": [1e-4, 1e-4]}  # relative, absolute


class Detector(nn.Module):
    """(1, 32, 32, 3) image, values in 0..1 -> (1, 10) class probabilities."""

    def __init__(self):
        super().__init__()
        self.convs = [
            nn.Conv2d(3, 16, 3, padding=1),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),  # to 16 x 16
            nn.Conv2d(32, 64, 3, padding=1),
            nn.Conv2d(64, 128, 3, stride=2, padding=1),  # to 8 x 8
        ]
        self.classify = nn.Linear(128, 10)

    def __call__(self, image):
        x = 2 * image - 1
        for conv in self.convs:
            x = nn.relu(conv(x))
        return mx.softmax(self.classify(x.mean(axis=(1, 2))), axis=-1)


class Layer(nn.Module):
    def __init__(self, width, heads, hidden):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = nn.MultiHeadAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def __call__(self, x):
        h = self.norm1(x)
        x = x + self.attention(h, h, h)
        return x + self.down(nn.gelu(self.up(self.norm2(x))))


class Encoder(nn.Module):
    """(1, 64) int32 ASCII codes -> (1, 96) embedding of length 1.

    ASCII codes as tokens: a caller needs no tokenizer to feed it text.
    """

    LENGTH, WIDTH = 64, 96

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(128, self.WIDTH)
        self.positions = nn.Embedding(self.LENGTH, self.WIDTH)
        self.layers = [Layer(self.WIDTH, heads=4, hidden=192) for _ in range(2)]
        self.norm = nn.LayerNorm(self.WIDTH)

    def __call__(self, tokens):
        x = self.tokens(tokens) + self.positions.weight
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x).mean(axis=1)
        return x * mx.rsqrt(mx.sum(x * x, axis=-1, keepdims=True))


class Tiny(nn.Module):
    """(1, 16) -> (1, 4)."""

    def __init__(self):
        super().__init__()
        self.up = nn.Linear(16, 32)
        self.down = nn.Linear(32, 4)

    def __call__(self, x):
        return self.down(nn.relu(self.up(x)))


def build(kind, seed):
    """Make a model of this class with seeded random parameters."""
    # Before the model is made: its initial biases are random too.
    mx.random.seed(seed)
    model = kind()

    def draw(w):
        # Scaled so that activations keep their size from layer to layer; the
        # default initialisation lets them fade until all outputs look alike.
        if w.ndim > 1:
            return mx.random.normal(w.shape) * (2 * w.shape[0] / w.size) ** 0.5
        return w + 0.1 * mx.random.normal(w.shape)

    model.apply(draw)
    # MLX writes a weight's memory as it lies, whatever its strides, and writes a
    # weight that has not been computed yet as the graph that would compute it.
    model.apply(mx.contiguous)
    mx.eval(model.parameters())
    return model


def describe(fn, inputs):
    """The sorted primitive names and dtypes in the exported graph of fn."""
    names, dtypes = set(), set()

    def see(event):
        if event["type"] == "primitive":
            names.add(event["name"])
            arrays = event["inputs"] + event["outputs"]
            dtypes.update(str(a[2]).removeprefix("mlx.core.") for a in arrays)

    # With a callback in place of a path, MLX reports the graph piece by piece.
    mx.export_function(see, fn, *inputs)
    return sorted(names), sorted(dtypes)


def write(folder, name, title, model, inputs, note):
    path = folder / f"{name}.mlxfn"
    mx.export_function(str(path), model, *inputs, metadata=title)

    # The sample's outputs come from the file, not from the model: that is what
    # a reader of the file has to reproduce. That both agree shows that the
    # weights were stored in the right order.
    outputs = mx.import_function(str(path))(*inputs)
    assert mx.allclose(outputs[0], model(*inputs), *TOLERANCE["float32"])
    sample = {f"in.{i}": x for i, x in enumerate(inputs)}
    sample |= {f"out.{i}": x for i, x in enumerate(outputs)}
    mx.save_safetensors(str(folder / f"{name}.safetensors"), sample)

    primitives, dtypes = describe(model, inputs)
    return {
        "name": name,
        "group": "model",
        "file": f"{name}.mlxfn",
        "calls": [f"{name}.safetensors"],
        "mlx_version": mx.__version__,
        "functions": 1,
        "shapeless": False,
        "metadata": title,
        "kwargs": [],
        "primitives": primitives,
        "dtypes": dtypes,
        "out_dtypes": ["float32"],
        "tol": TOLERANCE,
        "synthetic": False,
        "note": note,
    }


def main():
    default = Path(__file__).resolve().parent.parent / "models"
    parser = argparse.ArgumentParser(description="Make the demonstration models.")
    parser.add_argument("--out", type=Path, default=default, help="folder to write to")
    out = parser.parse_args().out
    if mx.__version__ != MLX_VERSION:
        parser.error(f"needs MLX {MLX_VERSION}, found {mx.__version__}")
    out.mkdir(parents=True, exist_ok=True)
    # On a Mac the default device is the GPU, where other primitives are exported.
    mx.set_default_device(mx.cpu)

    image = mx.random.uniform(shape=(1, 32, 32, 3), key=mx.random.key(1))
    text = "the quick brown fox jumps over the lazy dog".ljust(Encoder.LENGTH)
    tokens = mx.array([list(text.encode("ascii"))], dtype=mx.int32)
    vector = mx.random.normal((1, 16), key=mx.random.key(2))
    fixtures = [
        write(out, "a", "detector", build(Detector, 10), [image],
              "image classifier: float32 (1, 32, 32, 3) in 0..1 -> 10 probabilities"),
        write(out, "b", "encoder", build(Encoder, 20), [tokens],
              "text encoder: int32 (1, 64) ASCII codes -> unit vector of 96"),
        write(out, "tiny", "tiny", build(Tiny, 30), [vector],
              "two-layer perceptron: float32 (1, 16) -> 4 values"),
    ]
    files = [out / f for x in fixtures for f in [x["file"], *x["calls"]]]
    manifest = {
        "title": "demonstration models",
        "mlx_version": mx.__version__,
        "count": len(fixtures),
        "bytes": sum(f.stat().st_size for f in files),
        "fixtures": fixtures,
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    for f in files:
        print(f"{f.stat().st_size:8d} {f.name}")


if __name__ == "__main__":
    main()
