#!/usr/bin/env python3
"""Record chains of operations that plans recognise, as MLX exports them on a CPU.

    pip install 'mlx[cpu]==0.32.4'
    python tools/make_forms.py

Writes to crates/motet/tests/data/forms, for each form, NAME.mlxfn and NAME.safetensors with its
inputs (in.0, in.1...) and outputs (out.0...).
"""

import math
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn

OUT = Path(__file__).parent.parent / "crates/motet/tests/data/forms"

mx.set_default_device(mx.cpu)
mx.random.seed(11)


def normal(*shape, dtype=mx.float32):
    return mx.random.normal(shape).astype(dtype)


def form(name, f, *inputs):
    mx.eval(*inputs)
    mx.export_function(str(OUT / f"{name}.mlxfn"), f, *inputs)
    arrays = {f"in.{i}": x for i, x in enumerate(inputs)}
    outputs = f(*inputs)
    outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
    arrays |= {f"out.{i}": x for i, x in enumerate(outputs)}
    mx.save_safetensors(str(OUT / f"{name}.safetensors"), arrays)


# Norms
w, b = normal(16), normal(16)
for dtype in (mx.float32, mx.float16, mx.bfloat16):
    kind = str(dtype).split(".")[-1]
    rows, wd, bd = normal(2, 5, 16, dtype=dtype), w.astype(dtype), b.astype(dtype)
    mx.eval(wd, bd)
    form(f"layer_norm_{kind}", lambda x: mx.fast.layer_norm(x, wd, bd, 1e-5), rows)
    form(f"rms_norm_{kind}", lambda x: mx.fast.rms_norm(x, wd, 1e-5), rows)
rows = normal(3, 16)
form("layer_norm_plain", lambda x: mx.fast.layer_norm(x, None, None, 1e-5), rows)


def layer_norm(x):
    return b + w * ((x - x.mean(-1, keepdims=True)) / mx.sqrt(x.var(-1, keepdims=True) + 1e-3))


form("layer_norm_by_hand", layer_norm, rows)
form(
    "rms_norm_by_hand",
    lambda x: x * mx.rsqrt((x * x).mean(-1, keepdims=True) + 1e-3) * (1 + w),
    rows,
)
form(
    "norm_of_columns",
    lambda x: x * mx.rsqrt((x * x).mean(0, keepdims=True) + 1e-3),
    rows,
)

# Attention
sdpa = mx.fast.scaled_dot_product_attention
q, k, v = normal(2, 6, 5, 8), normal(2, 6, 9, 8), normal(2, 6, 9, 7)
few_k, few_v = k[:, :2] * 1, v[:, :2] * 1
form("attention", lambda *x: sdpa(*x, scale=0.3), q, k, v)
form("attention_causal", lambda *x: sdpa(*x, scale=0.3, mask="causal"), q, k, v)
form("attention_grouped", lambda *x: sdpa(*x, scale=0.3), q, few_k, few_v)
half = [x.astype(mx.float16) for x in (q, few_k, few_v)]
form("attention_grouped_half", lambda *x: sdpa(*x, scale=0.3, mask="causal"), *half)
added, kept = normal(5, 9), normal(2, 6, 5, 9) > 0
form("attention_added", lambda *x: sdpa(*x[:3], scale=0.3, mask=x[3]), q, few_k, few_v, added)
form("attention_kept", lambda *x: sdpa(*x[:3], scale=0.3, mask=x[3]), q, k, v, kept)
form(
    "attention_kept_grouped",
    lambda *x: sdpa(*x[:3], scale=0.3, mask=x[3]),
    q,
    few_k,
    few_v,
    kept,
)


def attention(q, k, v):
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(8)
    return mx.softmax(scores, -1) @ v, scores.max()


form("attention_by_hand", lambda *x: attention(*x)[0], q[0], k[0], v[0])
form("attention_with_scores", attention, q, k, v)


def causal(q, k, v):
    scores = (0.3 * q) @ k.swapaxes(-1, -2)
    mask = nn.MultiHeadAttention.create_additive_causal_mask(5)
    return mx.softmax(scores + mask, -1) @ v


form("attention_causal_by_hand", causal, q, k[:, :, :5] * 1, v[:, :, :5] * 1)

# Rotary embeddings
x = normal(2, 3, 5, 8)
rope = mx.fast.rope
form("rope", lambda x: rope(x, 8, traditional=False, base=1e4, scale=1.0, offset=3), x)
form("rope_part", lambda x: rope(x, 6, traditional=False, base=1e4, scale=0.5, offset=3), x)
form("rope_traditional", lambda x: rope(x, 8, traditional=True, base=1e4, scale=1.0, offset=0), x)
form(
    "rope_traditional_part",
    lambda x: rope(x, 6, traditional=True, base=1e4, scale=0.5, offset=3),
    x.astype(mx.float16),
)
form(
    "rope_offsets",
    lambda x, o: rope(x, 8, traditional=False, base=1e4, scale=1.0, offset=o),
    x,
    mx.array([3, 40]),
)
form(
    "rope_periods",
    lambda x, p: rope(x, 8, traditional=False, base=None, scale=1.0, offset=3, freqs=p),
    x,
    mx.array([1.0, 3.0, 10.0, 40.0]),
)

# Softmax
x = normal(3, 7)


def softmax(x):
    e = mx.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


form("softmax_by_hand", softmax, x)
form(
    "log_sum_exp_by_hand",
    lambda x: mx.log(mx.exp(x - x.max(-1, keepdims=True)).sum(-1)) + x.max(-1),
    x,
)

# Activations
x = normal(3, 40)
form("gelu", nn.gelu, x)
form("gelu_approx", nn.gelu_approx, x)
form("gelu_half", nn.gelu, x.astype(mx.float16))
form("silu", nn.silu, x)

# Pooling
x = normal(2, 9, 8, 5)


def slices(x, size, stride):
    x = mx.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-math.inf)
    height, width = ((dim - size) // stride + 1 for dim in x.shape[1:3])
    best = None
    for i in range(size):
        for j in range(size):
            rows = slice(i, i + stride * (height - 1) + 1, stride)
            columns = slice(j, j + stride * (width - 1) + 1, stride)
            part = x[:, rows, columns]
            best = part if best is None else mx.maximum(best, part)
    return best


form("pool_max_slices", lambda x: slices(x, 3, 2), x)
form("pool_max", nn.MaxPool2d(3, 2, 1), x)
form("pool_max_split", nn.MaxPool2d(3, 3), normal(2, 9, 6, 5))
form("pool_mean", nn.AvgPool2d(3, 1, 1), x)
form("pool_mean_half", nn.AvgPool1d(2, 2), x[0].astype(mx.float16))
form("pool_max_3d", nn.MaxPool3d(2, 2, 1), normal(1, 4, 5, 6, 3))

# Convolution and batch norm
norm = nn.BatchNorm(4)
norm.update({"running_mean": normal(4), "running_var": normal(4) ** 2, "weight": normal(4)})
norm.eval()
kernel = normal(4, 3, 3, 5) * 0.3
mx.eval(norm.state, kernel)
form("convolution_batch_norm", lambda x: nn.relu(norm(mx.conv2d(x, kernel, 1, 1))), x)
form("convolution_bias", lambda x: mx.conv2d(x, kernel) + norm.weight, x)

# Attention of a decoding step: to a cache, and to what the step appends to it
q, row = normal(1, 4, 1, 8), normal(1, 2, 1, 8)
caches = [normal(1, 2, 9, 8) for _ in range(2)]


def decode(q, row, keys, values):
    keys = mx.concatenate([keys, row], axis=2)
    values = mx.concatenate([values, row + 1], axis=2)
    return keys, values, mx.fast.scaled_dot_product_attention(q, keys, values, scale=0.4)


form("attention_appended", lambda *inputs: decode(*inputs)[2], q, row, *caches)
form("attention_cache_returned", decode, q, row, *caches)

# Quantised weights that are unpacked before they are multiplied
for bits in (2, 3, 4, 5, 6, 8):
    dtype = mx.float16 if bits == 4 else mx.float32
    weights = normal(6, 64, dtype=dtype)
    if dtype == mx.float16:
        # Multiples of 1/4 from -2 to 7/4, which four bits can tell apart: MLX rounds what it unpacks to
        # half precision, and motet does not, so other weights would differ.
        weights = mx.clip(mx.round(weights * 4), -8, 7) / 4
        weights[:, ::32] = -2
        weights[:, 1::32] = 7 / 4
    packed = mx.quantize(weights, 32, bits)
    mx.eval(*packed)
    form(
        f"dequantize_matmul_{bits}",
        lambda x: x @ mx.dequantize(*packed, 32, bits).T,
        normal(2, 3, 64, dtype=dtype),
    )
form(
    "dequantize_matmul_rows",
    lambda x, *packed: x @ mx.dequantize(*packed, 32, 8),
    normal(3, 6),
    *packed,
)

# Rotary embedding by halves, with tables of cosines and sines
q, k = normal(2, 3, 5, 8), normal(2, 2, 5, 8)
angles = normal(5, 4)
tables = [f(mx.concatenate([angles, angles], -1)) for f in (mx.cos, mx.sin)]


def rotate(x, cos, sin):
    first, second = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return x * cos + mx.concatenate([-second, first], -1) * sin


form("rotate", lambda q, k, *t: (rotate(q, *t), rotate(k, *t)), q, k, *tables)
halves = [x.astype(mx.float16) for x in (q, *tables)]
form("rotate_half", rotate, *halves)


def rotate_part(x, angles):
    cos, sin = (f(mx.concatenate([angles, angles], -1)) for f in (mx.cos, mx.sin))
    return mx.concatenate([rotate(x[..., :6], cos, sin), x[..., 6:]], -1)


form("rotate_part", rotate_part, q, angles[:, :3] * 1)

# Self-attention with its projections
width, heads = 24, 3
projections = [normal(width, width) * 0.3 for _ in range(4)]
biases = [normal(width) for _ in range(3)]
mx.eval(*projections, *biases)


def self_attention(x):
    parts = (mx.addmm(b, x, w.T) for b, w in zip(biases, projections))
    q, k, v = (part.reshape(2, -1, heads, width // heads).transpose(0, 2, 1, 3) for part in parts)
    joined = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.3)
    return x + joined.transpose(0, 2, 1, 3).reshape(2, -1, width) @ projections[3].T


form("self_attention", self_attention, normal(2, 7, width))
