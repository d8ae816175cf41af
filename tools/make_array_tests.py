#!/usr/bin/env python3
"""Makes what `crates/motet/tests` compares the array interface with, by running MLX itself.

    pip install 'mlx[cpu]==0.32.4' numpy
    python tools/make_array_tests.py

writes into crates/motet/tests/data.

    python tools/make_array_tests.py --check target/tmp

compares what the tests in files.rs have written there with what MLX and numpy read.
"""

import argparse
import json
import pathlib
import random
import subprocess
import sys

import mlx.core as mx
import numpy as np

DATA = pathlib.Path(__file__).parent.parent / "crates/motet/tests/data"


def display():
    """Arrays (display.npz), and what MLX prints for them (display.txt)."""
    nan, inf = float("nan"), float("inf")
    floats = [
        [0.0, -0.0, 1.0, -2.5, 100.0, 0.1],
        [nan, -nan, inf, -inf, 1 / 3, 2 / 3],
        [1e5, 1e6, 999999.5, 99999.95, 123456.5, 1234565],
        [1e-4, 1e-5, 0.00012345678, 9.9999995e-5, 1e-30, 1.0000005],
        [3e38, 1.1754944e-38, 1e-45, -1e10, 65504, 12345.678],
    ]
    complexes = [1 + 2j, -1 - 0.5j, complex(0, -0.0), complex(nan, inf), complex(1e9, -nan)]
    dtypes = "bool_ uint8 uint16 uint32 uint64 int8 int16 int32 int64 float16 float32 bfloat16 complex64"
    arrays = {f"one_{name}": mx.array(1).astype(getattr(mx, name)) for name in dtypes.split()}
    arrays |= {f"row_{name}": mx.arange(-2, 4).astype(getattr(mx, name)) for name in dtypes.split()}
    arrays |= {
        f"floats_{name}": mx.array(np.array(floats, np.float32)).astype(getattr(mx, name))
        for name in ("float16", "float32", "bfloat16")
    }
    arrays["floats_float64"] = mx.array(np.array(floats + [[1e300, -1e-300, 5e-324, 1, 2, 3]]), mx.float64)
    arrays["complexes"] = mx.array(np.array(complexes, np.complex64))
    arrays["limits_int64"] = mx.array(np.array([-(2**63), 2**63 - 1]))
    arrays["limits_uint64"] = mx.array(np.array([0, 2**64 - 1], np.uint64))
    shapes = [
        (0,), (1,), (6,), (7,), (1001,), (2, 3), (6, 6), (7, 7), (3, 0), (0, 3), (7, 0), (2, 7, 0),
        (1, 1, 1), (2, 2, 2), (7, 2, 2), (2, 7, 2), (2, 2, 7), (2, 1, 2, 2), (1, 1, 8, 1, 2),
    ]  # fmt: skip
    for shape in shapes:
        arrays["shape_" + "_".join(map(str, shape))] = mx.arange(int(np.prod(shape))).reshape(shape)
    mx.savez(str(DATA / "display.npz"), **arrays)
    with open(DATA / "display.txt", "w") as file:
        for name, array in sorted(arrays.items()):
            print(f"{name}:\n{array!s}\n", file=file)


def files():
    """Small files that MLX and numpy write, in all orders of elements."""
    x = np.arange(6, dtype=np.int32).reshape(2, 3).T
    mx.save(str(DATA / "mlx_transposed.npy"), mx.arange(6).reshape(2, 3).T)
    np.save(DATA / "numpy_fortran.npy", np.asfortranarray(x))
    np.save(DATA / "numpy_big_endian.npy", x.astype(">i4"))
    np.savez_compressed(DATA / "numpy_compressed.npz", x)
    half = mx.arange(3).astype(mx.bfloat16)
    arrays = {"half": half, "z": mx.array([1 + 2j]), "b": mx.array([True])}
    mx.save_safetensors(str(DATA / "mlx.safetensors"), arrays, {"k": "v"})
    mx.save_safetensors(str(DATA / "mlx_no_metadata.safetensors"), arrays)


def numbers(array):
    """An array for JSON."""
    array = np.array(array)
    return {"shape": array.shape, "data": array.flatten().tolist()}


def random_item(rng, dim):
    """An item of an index for a dimension of this size, for MLX and for JSON."""
    kind = rng.choice(["position", "slice", "slice", "all", "array", "array", "new"])
    if kind == "new":
        return None, "new"
    if kind == "position":
        position = rng.randrange(-dim, dim)
        return position, position
    if kind == "array":
        shape = rng.choice([(), (3,), (2, 1), (1,), (2, 2), (0,)])
        data = [rng.randrange(-dim, dim) for _ in range(int(np.prod(shape)))]
        dtype = rng.choice([np.int32, np.int8, np.int64])
        array = mx.array(np.array(data, dtype).reshape(shape))
        return array, numbers(array)
    ends = [None, *range(-dim - 2, dim + 3)]
    triple = [rng.choice(ends), rng.choice(ends), rng.choice([1, 1, 2, -1, -2, 3])]
    if kind == "all":
        triple = [None, None, 1]
    return slice(*triple), triple


def indexing_case(seed):
    """A random index, what MLX takes of an array by it, and what it makes of the array by setting
    that part. Fails where MLX refuses it, or does not set what numpy sets."""
    rng = random.Random(seed)
    shape = [rng.randrange(1, 4) for _ in range(rng.randrange(1, 5))]
    x = mx.arange(int(np.prod(shape))).reshape(shape)
    index, described, used = [], [], 0
    while used < len(shape) and rng.random() < 0.9:
        item, description = random_item(rng, shape[used])
        index.append(item)
        described.append(description)
        used += item is not None
    if rng.random() < 0.3:
        place = rng.randrange(len(index) + 1)
        index.insert(place, ...)
        described.insert(place, "...")
    index = tuple(index)
    part = x[index]
    case = {"shape": shape, "index": described, "part": numbers(part)}
    # Values that broadcast to the part. Of those that numpy does not take, MLX takes some in a way
    # of its own, and by others it writes outside of its memory.
    values_shape = [rng.choice([1, dim]) for dim in part.shape]
    values_shape = values_shape[rng.randrange(len(values_shape) + 1) :]
    values = mx.arange(int(np.prod(values_shape))).reshape(values_shape) * 3 - 4
    changed, expected = mx.array(x), np.array(x)
    changed[index] = values
    expected[tuple(np.array(i) if isinstance(i, mx.array) else i for i in index)] = np.array(values)
    np.testing.assert_array_equal(np.array(changed), expected)
    case |= {"values": numbers(values), "set": numbers(changed)["data"]}
    for update in "add", "subtract", "multiply", "maximum", "minimum":
        case[update] = numbers(getattr(x.at[index], update)(values))["data"]
    return case


def indexing():
    """Random indices and what MLX does by them (indexing.json)."""
    lines = []
    for seed in range(300):
        # In a process of its own, which it can take down.
        command = [sys.executable, __file__, "--indexing-case", str(seed)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            lines.append(done.stdout.strip())
    print(f"{len(lines)} indices")
    (DATA / "indexing.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")


def check(folder):
    """Whether MLX and numpy read from motet's files what display.npz has."""
    expected = mx.load(str(DATA / "display.npz"))

    def same(name, loaded):
        assert loaded.keys() == expected.keys(), name
        for key, array in loaded.items():
            assert array.dtype == expected[key].dtype and array.shape == expected[key].shape, (name, key)
            assert str(array) == str(expected[key]), (name, key)

    same("npz", mx.load(str(folder / "motet.npz")))
    same("compressed", mx.load(str(folder / "small.npz")))
    same("npy", {key: mx.load(str(folder / f"{key}.npy")) for key in expected})
    loaded, metadata = mx.load(str(folder / "motet.safetensors"), return_metadata=True)
    for key in [key for key, array in expected.items() if array.dtype == mx.float64]:
        loaded[key] = expected[key]  # Which MLX does not read from safetensors.
    same("safetensors", loaded)
    assert metadata == {"made by": "motet"}, metadata
    with np.load(folder / "motet.npz") as arrays, np.load(folder / "small.npz") as small:
        for key, array in expected.items():
            if array.dtype != mx.bfloat16:
                for read in arrays[key], small[key], np.load(folder / f"{key}.npy"):
                    np.testing.assert_array_equal(read, np.array(array))
    print(f"MLX and numpy read all {len(expected)} arrays from motet's files")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", type=pathlib.Path, metavar="FOLDER")
    parser.add_argument("--indexing-case", type=int, metavar="SEED", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    mx.set_default_device(mx.cpu)
    if arguments.check:
        return check(arguments.check)
    if arguments.indexing_case is not None:
        return print(json.dumps(indexing_case(arguments.indexing_case), separators=(",", ":")))
    DATA.mkdir(exist_ok=True)
    display()
    files()
    indexing()


if __name__ == "__main__":
    main()
