#!/usr/bin/env python3
"""Makes what `crates/motet/tests/linalg.rs` compares linear algebra with, by running MLX itself.

    python tools/make_linalg_tests.py

needs `mlx[cpu]==0.32.4` and numpy. Writes crates/motet/tests/data/linalg.npz: the inputs by
name, and outputs as `function/inputs/options/number`. Only what has one answer is written: no
eigenvectors, whose signs are anybody's.
"""

import pathlib

import mlx.core as mx
import numpy as np

FILE = pathlib.Path(__file__).parent.parent / "crates/motet/tests/data/linalg.npz"

mx.set_default_device(mx.cpu)
noise = np.random.default_rng(0).standard_normal


def array(shape, dtype=mx.float32):
    if dtype == mx.complex64:
        return mx.array((noise(shape) + 1j * noise(shape)).astype(np.complex64))
    return mx.array(noise(shape), mx.float64).astype(dtype)


def definite(shape, dtype=mx.float32):
    x = noise(shape)
    return mx.array(x @ np.swapaxes(x, -1, -2) + np.eye(shape[-1]), mx.float64).astype(dtype)


inputs = {
    "vector": array((5,)),
    "oblong": array((3, 5)),
    "tall": array((2, 5, 3)),
    "double": array((4, 4), mx.float64),
    "half": array((3, 4), mx.float16),
    "complex": array((3, 4), mx.complex64),
    "integers": mx.array([[1, -2, 3], [0, 5, 6], [7, 8, 10]]),
    "bools": mx.array([[True, False], [True, True]]),
    "none": mx.zeros((0, 2)),
    "square": array((4, 4)),
    "squares": array((2, 1, 3, 3)),
    "definite": definite((4, 4)),
    "definites": definite((2, 3, 3), mx.float64),
    "exchange": mx.array([[0.0, 1.0], [1.0, 0.0]]),
    "singular": mx.array([[1.0, 2.0], [2.0, 4.0]]),
    "nan": mx.array([[1.0, float("nan")], [0.0, 1.0]]),
    "low rank": mx.array([[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]]),
    "nearly singular": mx.array([[1.0, 0.0], [0.0, 2.3e-6]]),
    "nearly regular": mx.array([[1.0, 0.0], [0.0, 2.5e-6]]),
    "vector 4": array((4,)),
    "columns": array((4, 2)),
    "columns 3": array((2, 4, 3, 2)),
    "integers 4": mx.array([1, 2, 3, 4]),
    "two": array((2,)),
    "three": array((3,)),
    "threes": array((4, 3)),
    "threes down": array((3, 4)),
    "twos": array((4, 2)),
    "bytes": mx.array([1, 2, 3], mx.uint8),
    "signed bytes": mx.array([3, -4, 5], mx.int8),
}
outputs = {}


def add(function, names, options, call):
    try:
        results = call(*(inputs[name] for name in names))
        results = results if isinstance(results, (tuple, list)) else [results]
        mx.eval(*results)
    except Exception:  # What MLX refuses has no answer to compare with.
        return
    for number, result in enumerate(results):
        outputs["/".join([function, ",".join(names), options, str(number)])] = result


def norms():
    orders = [None, 0, 1, 2, 3, 0.5, -1, -2, float("inf"), float("-inf"), "fro", "nuc"]
    for name in ["vector", "oblong", "tall", "double", "half", "complex", "integers", "bools", "none"]:
        for order in orders:
            for axis in [None, 0, -1, (0, 1), (-1, 0), (2, 1)]:
                for keepdims in [False, True] if name == "tall" else [False]:
                    axes = (axis,) if isinstance(axis, int) else axis
                    options = f"{order} {'all' if axes is None else ','.join(map(str, axes))} {keepdims}"
                    add("norm", [name], options, lambda x: mx.linalg.norm(x, order, axis, keepdims))


norms()
for name in ["vector", "oblong", "tall", "double", "square", "squares", "exchange"]:
    add("qr", [name], "", mx.linalg.qr)
    add("svdvals", [name], "", lambda x: mx.linalg.svd(x, compute_uv=False))
    add("pinv", [name], "", mx.linalg.pinv)
    add("lu", [name], "", mx.linalg.lu)
    add("lu_factor", [name], "", mx.linalg.lu_factor)
add("svdvals", ["complex"], "", lambda x: mx.linalg.svd(x, compute_uv=False))
for name in ["low rank", "nearly singular", "nearly regular"]:
    add("pinv", [name], "", mx.linalg.pinv)
for name in ["double", "square", "squares", "exchange", "definite"]:
    add("inv", [name], "", mx.linalg.inv)
for name in ["double", "square", "squares", "exchange", "integers", "bools", "singular", "nan"]:
    if name != "double":  # MLX 0.32.4 rounds these to float32 on the way.
        add("det", [name], "", mx.linalg.det)
    add("slogdet", [name], "", mx.linalg.slogdet)
for name in ["square", "squares", "double", "definites"]:
    for upper in [False, True]:
        triangle = "upper" if upper else "lower"
        add("tri_inv", [name], triangle, lambda x: mx.linalg.tri_inv(x, upper))
        add("cholesky_inv", [name], triangle, lambda x: mx.linalg.cholesky_inv(x, upper))
        add("eigvalsh", [name], triangle, lambda x: mx.linalg.eigvalsh(x, triangle[0].upper()))
for name in ["definite", "definites"]:
    for upper in [False, True]:
        triangle = "upper" if upper else "lower"
        add("cholesky", [name], triangle, lambda x: mx.linalg.cholesky(x, upper))
# Not float32 with float64: MLX factors before it promotes.
for a, b in [
    ("square", "vector 4"),
    ("square", "columns"),
    ("square", "integers 4"),
    ("double", "columns"),
    ("squares", "columns 3"),
]:
    add("solve", [a, b], "", mx.linalg.solve)
    for upper in [False, True]:
        triangle = "upper" if upper else "lower"
        add("solve_triangular", [a, b], triangle, lambda a, b: mx.linalg.solve_triangular(a, b, upper=upper))
for a in ["two", "three", "twos", "threes", "bytes", "signed bytes"]:
    for b in ["two", "three", "twos", "threes", "bytes", "signed bytes"]:
        add("cross", [a, b], "-1", mx.linalg.cross)
add("cross", ["threes down", "threes down"], "0", lambda a, b: mx.linalg.cross(a, b, axis=0))
FILE.parent.mkdir(exist_ok=True)
np.savez_compressed(FILE, **{name: np.array(x) for name, x in (inputs | outputs).items()})
print(f"{len(inputs)} inputs, {len(outputs)} outputs")
