#!/usr/bin/env python3
"""Record what MLX's functions give: the cases of crates/motet/tests/ops.rs.

    pip install 'mlx[cpu]==0.32.4'
    python tools/make_ops_cases.py

Writes crates/motet/tests/data/ops_cases.json, a case per line:

    f     the function
    in    its arrays {t: dtype, s: shape, v: elements} and numbers. Without t
          they are float32, without s vectors. A complex number is two elements,
          and what JSON cannot say is a string ("nan")
    kw    its other arguments, if any
    out   the arrays that it returns; null where it is an error

The test runs the functions of the same names with these arguments.
"""

import json
import math
from pathlib import Path

import mlx.core as mx

OUT = Path(__file__).parent.parent / "crates/motet/tests/data/ops_cases.json"
CASES = []


def number(value):
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        short = float(f"{value:.7g}")
        return int(short) if short.is_integer() and abs(short) < 1e15 and str(short)[0] != "-" else short
    return value


def encode(x):
    if not isinstance(x, mx.array):
        return str(x) if x == INF else x
    if x.dtype == mx.complex64:
        flat = [part for z in x.reshape(-1).tolist() for part in (z.real, z.imag)]
    else:
        flat = x.reshape(-1).tolist()
    array = {} if x.dtype == mx.float32 else {"t": str(x.dtype).removeprefix("mlx.core.")}
    if x.ndim != 1:
        array["s"] = list(x.shape)
    return array | {"v": [number(v) for v in flat]}


def case(f, *args, run=None, **kw):
    """Records a call; `run` where MLX's function does not take these arguments as they are."""
    run = run or getattr(mx, f)
    try:
        out = run(*args, **kw)
        out = list(out) if isinstance(out, (list, tuple)) else [out]
        mx.eval(out)
        out = [encode(x) for x in out]
    except (ValueError, RuntimeError, IndexError, TypeError):
        out = None
    kw = {k: str(v).removeprefix("mlx.core.") if isinstance(v, mx.Dtype) else v for k, v in kw.items()}
    kw = {"kw": kw} if kw else {}
    CASES.append({"f": f, "in": [encode(x) for x in args]} | kw | {"out": out})


def a(values, dtype=None):
    return mx.array(values, dtype) if dtype else mx.array(values)


def r(*shape, dtype=mx.float32):
    """Small whole numbers of this shape, negative ones among them, in no order."""
    n = math.prod(shape)
    return ((mx.arange(n) * 5 + 2) % 11 - 4).astype(dtype).reshape(shape)


NAN, INF = math.nan, math.inf
I, F, H, B = mx.int32, mx.float32, mx.float16, mx.bfloat16
M = a([[1, 2, 3], [6, 5, 4]])
FLOATS = a([0.5, -1.25, 2.0, 0.0])
SPECIAL = a([1.5, -2.5, NAN, INF, -INF, -0.0])
Z = a([1 + 2j, -0.5 - 1j, 0.25j])
EMPTY = mx.zeros((0, 3))
ONE = a(3)


def elementwise():
    unit = a([0.5, -0.25, 0.0, 1.0])
    for f in """abs ceil floor negative sign square conjugate positive real imag trunc logical_not isnan
            isinf isfinite isposinf isneginf cos cosh sin sinh tan tanh arcsinh arctan exp erf sigmoid
            degrees radians expm1 bitwise_invert""".split():
        if f != "bitwise_invert":
            for x in (FLOATS, FLOATS.astype(H), FLOATS[:2].astype(B), SPECIAL):
                case(f, x)
            if f not in ("isposinf", "isneginf"):
                case(f, Z)
        case(f, a([3, -2, 0]))
        case(f, a([3, 200, 0], mx.uint8))
        if f not in ("exp", "sinh", "cosh"):
            case(f, a([True, False]))
    for f in "arccos arcsin arctanh erfinv".split():
        case(f, unit)
        case(f, unit.astype(H))
        case(f, a([0, 1]))
    for f in "log log2 log10 log1p sqrt rsqrt reciprocal arccosh".split():
        for x in (a([1.0, 2.5, 4.0]), a([1.0, 2.5, 4.0], H), a([1, 2, 9]), Z):
            case(f, x)
    for decimals in (0, 1, 2, -1):
        for x in (a([2.5, -1.26, 12.345, NAN]), a([125, 135, -25]), a([2.5, 1.26], H), Z * 1.53):
            case("round", x, decimals=decimals)
    arithmetic = "add subtract multiply maximum minimum equal not_equal less less_equal greater greater_equal logaddexp"
    reals = "divide remainder floor_divide power arctan2"
    left = a([[7, 2, 3], [4, 5, 1]])
    pairs = [
        (left, a([2, 3, 5])),
        (left.astype(mx.uint8), a([2, 3, 5], mx.int8)),
        (left.astype(mx.uint32), a([[2], [3]], mx.int32)),
        (left.astype(mx.uint64), a([2, 3, 5], mx.int64)),
        (left.astype(H), a([2, 3, 5], B)),
        (left.astype(H), a([2, 3, 5])),
        (left.astype(H), 1.5),
        (left, 1.5),
        (2, left.astype(mx.int8)),
        (left.astype(mx.int16), True),
        (a([True, False]), 2),
        (a([1.5, -2.5, NAN, INF]), a([2.0, NAN, 1.0, INF])),
        (a([-7, 7, -7, 7]), a([2, -2, -2, 2])),
        (a([-7.5, 7.5]), -2.0),
        (left, a([1, 2])),
        (EMPTY, a([1.0, 2.0, 3.0])),
    ]
    for f in arithmetic.split() + reals.split():
        for x, y in pairs:
            case(f, x, y)
    for f in arithmetic.split()[:6]:
        case(f, Z, a([1.0, 2.0, 0.5]))
        case(f, a([True, False]), a([True, True])) if f != "subtract" else None
    for f in "bitwise_and bitwise_or bitwise_xor left_shift right_shift".split():
        case(f, a([12, -7, 3]), 2)
        case(f, a([12, 7], mx.uint8), a([1, 3], mx.int8))
        case(f, a([1.5]), 1)
        if "bit" in f:
            case(f, a([True, False]), True)
    for f in "logical_and logical_or logical_xor".split():
        case(f, a([0, 1, 2]), a([True, False, True]))
        case(f, a([0.0, NAN]), a([1, 1]))
    for x, y in (pairs[0], pairs[5], (a([-7, 7]), a([2, -2])), (a([-7.5, 7.5]), 2.0), (Z, Z)):
        case("divmod", x, y)


def creation():
    def arange(start, stop, step, **kw):
        return mx.arange(start, stop, step, **kw)

    for args in ((0, 5, 1), (5, 0, -2), (1, 2.5, 0.5), (0, 3.7, 1), (5, 0, 1), (0, 5, 0), (0, INF, 1)):
        case("arange", *args, run=arange)
    for dtype in (H, I, mx.int8, mx.uint64, mx.complex64, mx.bool_):
        case("arange", 0, 5, 2, run=arange, dtype=dtype)
    case("arange", 0, 2**33, 2**32, run=arange)
    for num, endpoint, dtype in ((5, True, F), (5, False, F), (4, True, I), (1, True, F), (0, True, F), (3, True, H)):
        case("linspace", 1, 11, num=num, endpoint=endpoint, dtype=dtype)
    for shape, values, kw in (
        ([2], 1, {}), ([2], 1.5, {}), ([], True, {}), ([2, 2], a([1, 2]), {}), ([2], a([1, 2, 3]), {}),
        ([2], 3, {"dtype": H}), ([0, 2], 3, {}),
    ):
        case("full", values, run=lambda v, shape, **kw: mx.full(shape, v, **kw), shape=shape, **kw)
    for values in (7, 2.7, a(2.7), a([1, 2, 3])):
        case("full_like", a([1, 2], mx.int8), values)
    case("full_like", a([1, 2], mx.int8), 2.7, dtype=F)
    for f in ("zeros", "ones"):
        case(f, shape=[2, 3])
        case(f, shape=[], dtype=mx.bool_)
        case(f + "_like", a([1, 2], mx.int8))
        case(f + "_like", a([1, 2], mx.int8), dtype=F)
    for n, m, k in ((3, 3, 0), (3, 2, 1), (2, 4, -1), (2, 2, -5), (2, 2, 9), (0, 2, 0)):
        case("eye", n=n, m=m, k=k)
        case("tri", n=n, m=m, k=k)
    case("eye", n=2, m=2, k=0, dtype=mx.int8)
    case("tri", n=2, m=2, k=0, dtype=mx.bool_)
    case("identity", n=3)
    for f in ("bartlett", "blackman", "hamming", "hanning"):
        for m in (0, 1, 2, 5, 8):
            case(f, run=lambda m, f=f: getattr(mx, f)(m), m=m)
    x, y, z = a([1, 2, 3]), a([4.0, 5.0]), a([[6, 7]])
    for arrays in ([x, y], [x], [x, y, z], [ONE, x], [x, a([], I)]):
        for sparse in (False, True):
            for indexing in ("xy", "ij"):
                case("meshgrid", *arrays, sparse=sparse, indexing=indexing)


def matrices():
    x = r(2, 3, 4, dtype=I)
    for k in (0, 1, -2, 9):
        for f in ("tril", "triu"):
            case(f, M, k=k)
            case(f, x, k=k)
        case("diag", M, k=k)
        case("diag", a([1, 2]), k=k)
        case("trace", M, offset=k, axis1=0, axis2=1)
        for axis1, axis2 in ((0, 1), (-1, 0), (1, 2)):
            case("diagonal", x, offset=k, axis1=axis1, axis2=axis2)
    case("tril", a([1, 2]), k=0)
    case("triu", a([[True, True], [True, True]]), k=0)
    case("diag", ONE, k=0)
    case("diag", x, k=0)
    case("diagonal", x, offset=0, axis1=1, axis2=1)
    case("diagonal", x, offset=0, axis1=1, axis2=3)
    case("diagonal", a([1, 2]), offset=0, axis1=0, axis2=1)
    case("diagonal", EMPTY, offset=0, axis1=0, axis2=1)
    case("trace", M.astype(mx.int8), offset=0, axis1=0, axis2=1)
    case("trace", M, offset=0, axis1=0, axis2=1, dtype=F)
    case("trace", a([1, 2]), offset=0, axis1=0, axis2=1)
    case("trace", x, offset=1, axis1=-1, axis2=0)


def shapes():
    x = r(2, 3, 4, dtype=I)
    for shape in ([-1], [4, -1], [6, 4], [2, 3, 4, 1], [5, -1], [-1, -1], [23], []):
        case("reshape", x, shape=shape)
    case("reshape", ONE, shape=[1, 1])
    case("reshape", EMPTY, shape=[-1, 3])
    case("reshape", EMPTY, shape=[0, -1])
    for start, end in ((0, -1), (1, -1), (1, 5), (-5, 1), (2, 1), (3, 4), (1, 1)):
        case("flatten", x, start_axis=start, end_axis=end)
    case("flatten", ONE, start_axis=0, end_axis=-1)
    for axis, shape in ((-1, [2, -1]), (0, [1, 2]), (0, []), (1, [2, 2]), (5, [1])):
        case("unflatten", x, axis=axis, shape=shape)
    one = mx.zeros((1, 2, 1))
    for axis in (None, 0, [0, -1], 1, [0, 0], 3):
        case("squeeze", one, axis=axis)
    for axis in (0, -1, [0, -1], [0, 0], [1, 2], 5):
        case("expand_dims", M, axis=axis)
    for axes in (None, [2, 0, 1], [0, 1, 2], [-1, 0, 1], [0, 0, 1], [0, 1], [0, 1, 3]):
        case("transpose", x, axes=axes)
    case("transpose", ONE, axes=None)
    for i, j in ((0, -1), (1, 1), (2, 0), (0, 3)):
        case("swapaxes", x, axis1=i, axis2=j)
        case("moveaxis", x, source=i, destination=j)
    for y in (x, M, a([1, 2])):
        case("matrix_transpose", y)
    for shape in ([2, 2, 3], [2, 3], [4, 2, 3], [3, 2]):
        case("broadcast_to", M, shape=shape)
    case("broadcast_to", 7, shape=[2])
    case("broadcast_arrays", a([1, 2]), a([[1.5], [2.5]]), ONE)
    case("broadcast_arrays", a([1, 2]), a([1, 2, 3]))
    for f in ("atleast_1d", "atleast_2d", "atleast_3d"):
        for y in (ONE, a([1, 2]), M, x, r(1, 2, 1, 2)):
            case(f, y)
    for dtype in (mx.int8, mx.uint32, F, mx.float64, mx.int16):
        case("view", M, dtype=dtype)
        case("view", ONE, dtype=dtype)
    case("view", a([True, False]), dtype=mx.int8)
    for shape, strides, offset in (([2, 2], [1, 1], 0), ([3], [-1], 2), ([2, 3], [0, 2], 1), ([2, 2], [3, 1], 1)):
        case("as_strided", M, shape=shape, strides=strides, offset=offset)
        case("as_strided", mx.transpose(M), shape=shape, strides=strides, offset=offset)
    for f in ("contiguous", "stop_gradient"):
        case(f, mx.transpose(M))


def joins():
    x, y = a([1, 2, 3]), a([4.5], H)
    for arrays, axis in (
        ([x, y], 0), ([x, y], None), ([M, M], 1), ([M, M], -1), ([M, M], None), ([M, x], 0), ([M, r(2, 2)], 1),
        ([M, r(2, 2)], 0), ([x], 0), ([M, EMPTY], 0), ([x, y], 1), ([ONE, ONE], None),
        ([a([True]), a([2], mx.uint8), a([3], mx.int8)], 0),
    ):
        case("concatenate", *arrays, run=lambda *xs, axis: mx.concatenate(list(xs), axis), axis=axis)
    for arrays, axis in (([x, x], 0), ([x, x], -1), ([x, x.astype(H)], 1), ([x, x], 2), ([x, y], 0), ([ONE, ONE], 0)):
        case("stack", *arrays, run=lambda *xs, axis: mx.stack(list(xs), axis), axis=axis)
    for axis in (0, 1, -1, 2):
        case("unstack", M, axis=axis)
        for at in (1, 2, 3, 5, [1], [2, 1], [-1], [5], [1, 7], [], [0, 0]):
            case("split", M, at=at, axis=axis, run=lambda x, at, axis: mx.split(x, at, axis))
    case("unstack", EMPTY, axis=0)
    for repeats, axis in ((2, None), (2, 1), (3, 0), (0, 1), (1, -1), (2, 2)):
        case("repeat", M, repeats=repeats, axis=axis)
    case("repeat", ONE, repeats=2, axis=None)
    for reps in ([2], [2, 1, 1], [1, 2], [0], [-1], []):
        case("tile", M, reps=reps, run=lambda x, reps: mx.tile(x, reps))
    case("tile", ONE, reps=[3], run=lambda x, reps: mx.tile(x, reps))
    for axis in (None, 0, 1, [0, 1], -1, 2):
        case("flip", M, axis=axis)
    case("flip", ONE, axis=None)
    case("flip", EMPTY, axis=None)
    for shift, axis in (
        (1, None), (-8, None), ([1, 1], None), (1, 0), (-1, 1), ([1, 1], [0, 1]), ([1, 1], 0), (1, [0, 1]),
        ([1, 1], [0, 0]), (1, 4), (1, []), (7, -1),
    ):
        case("roll", M, shift=shift, axis=axis, run=lambda x, shift, axis: mx.roll(
            x, tuple(shift) if isinstance(shift, list) else shift, tuple(axis) if isinstance(axis, list) else axis))
    case("roll", EMPTY, shift=1, axis=None, run=lambda x, shift, axis: mx.roll(x, shift, axis))
    for width in ([[1, 2]], [[5, 4]], [[0, 0]], [[0, 3]]):
        for mode in ("constant", "edge", "reflect", "symmetric"):
            case("pad", x, width=width, mode=mode, run=lambda x, width, mode: mx.pad(x, width, mode))
            case("pad", a([7]), width=width, mode=mode, run=lambda x, width, mode: mx.pad(x, width, mode))
            case("pad", M, width=width * 2, mode=mode, run=lambda x, width, mode: mx.pad(x, width, mode))
    for value in (1.5, a([9]), True):
        case("pad", M, value, width=[[0, 1], [2, 0]], mode="constant",
             run=lambda x, v, width, mode: mx.pad(x, width, mode, v))
    case("pad", M, width=[[1, 1]] * 3, mode="constant", run=lambda x, width, mode: mx.pad(x, width, mode))
    case("pad", mx.zeros((0,)), width=[[1, 1]], mode="reflect", run=lambda x, width, mode: mx.pad(x, width, mode))


def reductions():
    x = r(2, 3, 2)
    arrays = (x, x.astype(I), x.astype(mx.int8), x.astype(H), x > 0)
    for f in "all any max min prod sum mean logsumexp median count_nonzero softmax minmax".split():
        keep = {} if f == "softmax" else {"keepdims": True}
        if f == "softmax":
            # Of integers over other axes than the last one MLX gives integers.
            for y in arrays:
                case(f, y, axis=-1)
            for axis in (None, 0, [0, 2], [1, 0], [], 3, [0, -3]):
                case(f, x, axis=axis)
                case(f, x.astype(H), axis=axis)
        else:
            for y in arrays:
                # MLX's sum of the exponentials of bools is off where they are all summed up.
                if f != "logsumexp" or y.dtype != mx.bool_:
                    case(f, y, axis=None)
                case(f, y, axis=1)
            for axis in (None, 0, -1, [0, 2], [1, 0], 3, [0, -3]):
                case(f, x, axis=axis, **keep)
            if f != "median":
                case(f, M, axis=[])
            case(f, ONE, axis=None)
        case(f, EMPTY, axis=None)
        case(f, EMPTY, axis=1)
        case(f, EMPTY, axis=0)
        if f not in ("median", "minmax"):
            case(f, Z, axis=None if f != "softmax" else -1)
        case(f, SPECIAL[:3], axis=0)
        case(f, a([-INF, -INF]), axis=0)
    for f in ("var", "std"):
        for y in arrays:
            case(f, y, axis=None, ddof=0)
        for axis, ddof in ((0, 0), (1, 1), ([0, 2], 2), ([], 0), (0, 2), (3, 0)):
            case(f, x, axis=axis, keepdims=True, ddof=ddof)
        case(f, Z, axis=None, ddof=0)
    for f in ("argmax", "argmin"):
        for axis in (None, 0, 1, -1, 3):
            case(f, x, axis=axis)
            case(f, x, axis=axis, keepdims=True)
        for y in (a([True, False, True]), a([1.0, NAN, 2.0]), a([3, 1, 3, 1], mx.uint8)):
            case(f, y, axis=0)
        case(f, EMPTY, axis=None)
        case(f, EMPTY, axis=0)
        case(f, ONE, axis=None)
    for f in "cumsum cumprod cummax cummin logcumsumexp".split():
        for reverse in (False, True):
            for inclusive in (True, False):
                case(f, r(2, 3), axis=1, reverse=reverse, inclusive=inclusive)
                if f != "logcumsumexp" and inclusive:
                    case(f, r(2, 3, dtype=mx.int8), axis=0, reverse=reverse, inclusive=inclusive)
        for y in (M, r(4, dtype=H), ONE):
            case(f, y, axis=None)
        case(f, M, axis=2)
        case(f, EMPTY, axis=0)
    case("cumsum", a([True, False, True]), axis=0)
    case("cumprod", a([True, False, True]), axis=0)
    case("cumsum", r(4, dtype=mx.int8), axis=0, dtype=F)
    for n, axis in ((1, -1), (2, 1), (1, 0), (2, 0), (0, 0), (5, 0), (1, 2)):
        case("diff", M, n=n, axis=axis)
    case("diff", a([True, False, False]), n=1, axis=0)
    case("diff", a([1, 4, 2], mx.uint8), n=1, axis=0)
    case("diff", ONE, n=1, axis=0)


def sorts():
    x = r(3, 4, dtype=I)
    nans = a([3.0, NAN, -INF, 1.0, -0.0, 0.0])
    for f in ("sort", "argsort"):
        for axis in (None, 0, 1, -1, 2):
            case(f, x, axis=axis)
        for y in (nans, nans.astype(H), Z, EMPTY, a([True, False, True]), a([3, 1, 2], mx.uint8)):
            case(f, y, axis=-1)
        case(f, ONE, axis=-1)
    for f in ("partition", "argpartition"):
        for kth, axis in ((1, 0), (-1, 1), (0, None), (3, 0), (2, 2)):
            flat = x.reshape(-1) if axis is None else x

            def at(y, kth, axis, f=f, flat=flat):
                y = getattr(mx, f)(y, kth, axis)
                y = y if f == "partition" else mx.take_along_axis(flat, y, axis or 0)
                return mx.take(y, kth % y.shape[axis or 0], axis or 0)

            case(f, x, kth=kth, axis=axis, run=at)
    for k, axis in ((1, 0), (2, -1), (0, 0), (3, 0), (4, 0), (5, None), (2, 2)):
        case("topk", x, k=k, axis=axis, run=lambda x, k, axis: mx.sort(mx.topk(x, k, axis), axis or 0))
    row = a([1, 2, 2, 4])
    for side in ("left", "right"):
        case("searchsorted", row, a([[2, 3], [0, 9]]), side=side)
        case("searchsorted", row, a([1.5, NAN, 4.0]), side=side)
        case("searchsorted", row, a([2, 3], mx.uint8), side=side)
        case("searchsorted", M, row, side=side)
    for y in (a([3, 1, 2, 3, 1]), r(2, 3), a([2.0, NAN, 2.0, NAN]), a([True, True])):
        for size in (2, 5, 1):
            for fill in (None, 7):
                case("unique", y, size=size, fill_value=fill, run=lambda x, size, fill_value: mx.unique(
                    x, size, return_index=True, return_inverse=True, return_counts=True, fill_value=fill_value))
    for fill in (None, 7):
        case("unique", EMPTY, size=2, fill_value=fill, run=lambda x, size, fill_value: mx.unique(
            x, size, return_index=True, return_inverse=True, return_counts=True, fill_value=fill_value))


def selections():
    b = a([True, False, True])
    for args in (
        (b, 1, 2), (b, 1.5, a([1, 2, 3], mx.int8)), (M, M, 0.5), (a([0.0, 2.0, NAN]), b, 3), (True, 1, 2),
        (b, a([1, 2]), 0), (b, EMPTY, 1), (b, r(3, dtype=H), r(3, dtype=B)), (b, Z, 1),
    ):
        case("where", *args)
    for low, high in ((2, 4), (1.5, None), (None, 3), (None, None), (4, 2), (a([1, 2, 3]), a([[3], [4]]))):
        case("clip", M, low=encode(low), high=encode(high), run=lambda x, low, high, l=low, h=high: mx.clip(x, l, h))
        case("clip", SPECIAL[:3], low=encode(low), high=encode(high),
             run=lambda x, low, high, l=low, h=high: mx.clip(x, l, h))
    for x in (SPECIAL, SPECIAL.astype(H), SPECIAL.astype(B), M, a([True]), Z):
        case("nan_to_num", x)
    case("nan_to_num", SPECIAL, nan=1.0, posinf=2.0, neginf=3.0)
    near = a([1.5000001, -2.6, NAN, INF, INF, 0.0])
    for f in ("isclose", "allclose"):
        for equal_nan in (False, True):
            case(f, SPECIAL, near, equal_nan=equal_nan)
            case(f, SPECIAL, SPECIAL, equal_nan=equal_nan)
        case(f, a([1, 2, 3]), a([1.01, 2.0, 3.5]), rtol=0.1, atol=0.0)
        case(f, Z, Z + 1e-4, atol=1e-3)
        case(f, M, a([1, 2]))
    for x, y in ((M, M), (M, M.astype(F)), (M, a([1, 2])), (SPECIAL, SPECIAL), (1, a(1.0)), (EMPTY, EMPTY)):
        for equal_nan in (False, True):
            case("array_equal", x, y, equal_nan=equal_nan)


def indexing():
    x = r(3, 4, dtype=I)

    def python(start, stop, strides):
        return tuple(slice(*bounds) for bounds in zip(start, stop, strides, strict=True))

    bounds = (([1, 0], [3, 4], [1, 2]), ([-2, 3], [9, 0], [1, -1]), ([0, 0], [0, 4], [1, 1]), ([2, -1], [-9, -9], [-1, -2]))
    for start, stop, strides in bounds:
        kw = {"start": start, "stop": stop, "strides": strides}
        case("slice", x, run=lambda x, **kw: x[python(**kw)], **kw)
        for f, method in (("slice_update", None), ("slice_update_add", "add"), ("slice_update_prod", "multiply"),
                          ("slice_update_max", "maximum"), ("slice_update_min", "minimum")):
            for update in (5, a([[1.5]]), a([7, 8])):
                def run(x, u, f=f, method=method, **kw):
                    part = x[python(**kw)]
                    y = mx.array(x)
                    u = (u.astype(x.dtype) if isinstance(u, mx.array) else u)
                    y[python(**kw)] = getattr(mx, method)(part, u) if method else u
                    return y
                case(f, x, update, run=run, **kw)
    case("slice", x, run=lambda x, **kw: x[python(**kw)], start=[0], stop=[1, 2], strides=[1, 1])
    for indices in (a([1, 0]), a([[2, 1, 0], [0, -1, 2]]), a(1), 1, a([], I), a([1, 2], mx.uint8), a([0.5]), a([True])):
        for axis in (0, 1, -1, None, 2):
            case("take", x, indices, axis=axis)
    case("take", ONE, 0, axis=None)
    case("take", r(2, 3, 4), a([[0, 2], [1, 1]]), axis=1)
    case("take", EMPTY, a([0]), axis=0)
    case("take", EMPTY, a([0]), axis=1)
    case("take", EMPTY, a([], I), axis=0)
    for indices, axis in (
        (a([[1, 0, 2, 2]]), 0), (a([[1], [0], [3]]), 1), (a([[1], [0], [-1]]), -1), (a([[1, 2]]), 1), (a([11, 0]), None),
        (a([1, 0]), 0), (a([[1], [0]]), 1), (a([[0.5]]), 0), (a([[0]]), 2), (a([[2, 2], [0, 1], [3, 3]], mx.uint32), 1),
    ):
        case("take_along_axis", x, indices, axis=axis)
        values = 9 if axis is None else a([9.5])
        case("put_along_axis", x, indices, values if isinstance(values, mx.array) else a(9), axis=axis)
    case("put_along_axis", x, a([[1], [0], [3]]), a([[7], [8], [9]]), axis=1)
    case("put_along_axis", x, a([[1], [0], [3]]), a([7, 8]), axis=1)
    case("put_along_axis", x, a([[1, 2]]), a([[7], [8], [9]]), axis=1)
    case("put_along_axis", x, a([[1], [0]]), a([7, 8]), axis=1)
    for f, method in (("scatter", None), ("scatter_add", "add"), ("scatter_prod", "multiply"),
                      ("scatter_max", "maximum"), ("scatter_min", "minimum")):
        def run(x, i, j, u, f=f, method=method, **kw):
            if method:
                return getattr(x.at[i, j], method)(u.reshape(i.shape))
            y = mx.array(x)
            y[i, j] = u.reshape(i.shape)
            return y

        rows, columns = a([0, 2, -1]), a([1, 3, 3])
        case(f, x, rows, columns, a([5, -6, 3]).reshape(3, 1, 1), run=run, axes=[0, 1])
        case(f, x.astype(F), rows, columns, a([5, -6, 3]).reshape(3, 1, 1), run=run, axes=[0, 1])
    for start, axes, sizes in (
        (a([1, 2]), [0, 1], [2, 2]), (a(1), [0], [2, 4]), (a([1]), [-1], [3, 2]), (a([1, 2]), [0], [2, 2]),
        (a([1]), [0], [4, 4]), (a([1.0]), [0], [2, 4]), (a([1, 1]), [0, 0], [2, 4]), (a([1]), [0], [2]),
    ):
        case("dynamic_slice", x, start, axes=axes, slice_size=sizes, run=lambda x, s, **kw: mx.slice(x, s, **kw))
    for update, start, axes in (
        (a([[9.5, 8]]), a([1, 2]), [0, 1]), (a(9), a([1, 2]), [0, 1]), (a([9]), a([2]), [0]), (r(4, 4), a([0]), [0]),
    ):
        case("dynamic_slice_update", x, update, start, axes=axes, run=lambda x, u, s, **kw: mx.slice_update(x, u, s, **kw))

    def masked(x, mask, source):
        y = mx.array(x)
        y[mask] = source
        return y

    case("masked_scatter", x, x > 0, mx.arange(12), run=masked)
    case("masked_scatter", x, a([True, False, True]), mx.arange(8).reshape(2, 4), run=masked)


def products():
    f23, f34, v3 = r(2, 3), r(3, 4), a([1.0, 2.0, 3.0])
    batch = r(2, 2, 3)
    pairs = (
        (f23, f34), (v3, v3), (f23, v3), (v3, f34), (batch, f34), (batch, mx.transpose(batch, (0, 2, 1))),
        (batch, v3), (v3, r(2, 3, 2)), (f23, r(2, 3, 2)), (r(2, 1, 2, 3), r(3, 3, 2)), (f23, f23), (f23.astype(H), f34),
        (f23.astype(H), f34.astype(H)), (f23.astype(I), f34), (M, M.T), (ONE, f23), (mx.zeros((2, 0)), mx.zeros((0, 2))),
        (r(2, 2, 3), r(3, 3, 2)), (Z, Z), (r(0, 3), f34), (r(0, 2, 3), f34),
    )
    for x, y in pairs:
        case("matmul", x, y)
        case("inner", x, y)
        case("tensordot", x, y, axes=1)
    for c in (a(1.0), v3[:1], a([1, 2, 3, 4]), a([1.0, 2.0]), r(2, 4), r(5, 2, 4), a([1.0], H)):
        case("addmm", c, f23, f34, alpha=2.0, beta=0.5)
    for x, y in ((f23, v3), (v3, v3), (batch, f34), (v3, r(2, 3, 2)), (M, M.T), (batch, mx.transpose(batch, (0, 2, 1)))):
        case("addmm", a(1.0) if x is not M else a(1), x, y, alpha=1.0, beta=1.0)
    for x, y in ((v3, v3), (f23, v3), (a([3, 1]), v3), (ONE, a([1, 2])), (a([1, 2], mx.int8), a([True, False]))):
        case("outer", x, y)
        case("kron", x, y)
    case("kron", M, M)
    case("kron", M, a([1, 2]))
    for x, y, axis in (
        (f23, f23, -1), (f23, f23, 0), (M, M, 1), (Z, Z, 0), (v3, a([1, 2, 3]), 0), (f23, f34, 0), (ONE, ONE, 0),
        (a([True, True]), a([True, False]), -1), (r(2, 3, 4), r(2, 1, 4), 2), (f23, f23, 2),
    ):
        case("vecdot", x, y, axis=axis)
    x = r(2, 3, 4)
    for y, axes in (
        (x, [[1, 2], [1, 2]]), (x, [[2, 1], [2, 1]]), (x, [[0], [0]]), (x, 3), (x, 4), (x, [[0], [1]]),
        (x, [[0], [0, 1]]), (x, [[0, 0], [0, 0]]), (mx.transpose(x), 2), (x, [[-1], [-1]]), (x, 2),
    ):
        case("tensordot", x, y, axes=axes)
    case("tensordot", v3, f23, axes=0)
    m = r(3, 3)
    for subscripts, operands in (
        ("ij,jk->ik", [f23, f34]), ("ij,jk", [f23, f34]), ("ii->i", [m]), ("ii", [m]), ("ij->ji", [f23]), ("ba", [f23]),
        ("...j,jk->...k", [batch, f34]), ("ij,kl->ijkl", [f23, f23]), ("i,i,i->", [v3, v3, v3]), ("ij->", [M]),
        ("ij,jk,kl->il", [f23, f34, f34.T]), ("ij,ij->ij", [M, M]), ("ij,ij->i", [f23, f23[:1]]), ("ij->ii", [m]),
        ("ij->ik", [m]), ("ij", [v3]), ("ij,jk->ik", [f23, f23]), (" i j , j k -> i k ", [f23, f34]), ("ij,jk->ik", [f23]),
        ("iij->ij", [r(2, 2, 3)]), ("bij,bjk->bik", [batch, mx.transpose(batch, (0, 2, 1))]), ("ij,j->i", [f23, v3]),
        ("ij,jj->i", [f23, m]), ("->", [ONE]), (",->", [ONE, ONE]), ("i1->i", [m]), ("i,j->ij", [v3, a([1, 2], H)]),
        ("I,J->IJ", [v3, v3]), ("i->", [a([1, 2], mx.int8)]), ("...i->...", [batch]), ("i...,i...", [f23, f23]),
        ("...i,...i->i...", [f23, batch]), ("bhqd,bhkd->bhqk", [r(2, 2, 3, 2), r(2, 2, 4, 2)]), ("...", [M]),
        ("abc,cd,bd->ad", [x, r(4, 2), r(3, 2)]), ("ij,k->i", [f23, v3]), ("ij,jk->ki", [f23.astype(H), f34.astype(H)]),
    ):
        case("einsum", *operands, run=lambda *xs, subscripts: mx.einsum(subscripts, *xs), subscripts=subscripts)
    tall, wide = r(33, 2), r(2, 34)
    for block_size, out in ((32, a([[1.0, 0.5], [0.0, 2.0]])), (64, a([[0.5]]))):
        left, right = out[:, :1] * 2, out[:1] - 1
        for masks in ((out > 0.7, None, None), (out, None, None), (None, left, right), (out > 0, left, right),
                      (out, left > 0, right > 0), (None, None, None), (None, left, None), (out[0], None, None)):
            def run(x, y, block_size, masks, given=masks):
                z = mx.block_masked_mm(x, y, block_size, *given)
                return mx.stack([z.sum(), z[0, 0], z[-1, -1], z[31, 33], z[32, 30]])
            case("block_masked_mm", tall, wide, block_size=block_size, masks=[m if m is None else encode(m) for m in masks], run=run)
    for x, y, left, right in (
        (r(3, 2, 4), r(5, 4, 3), a([0, 2]), a([4, 1])), (r(3, 2, 4), r(5, 4, 3), None, a([4, 1, 0])),
        (r(3, 2, 4), r(3, 4, 3), None, None), (r(2, 4), r(5, 4, 3), None, a([4, 1])),
        (r(2, 3, 2, 4), r(5, 4, 3), a([[0], [5]]), a([4, 1, 0])), (r(3, 2, 4), r(5, 4, 3), a([0.5]), a([4])),
        (r(2, 4, dtype=I), r(5, 4, 3, dtype=I), None, a([4])), (r(4), r(5, 4, 3), None, a([4, 1])),
        (r(3, 2, 4), r(5, 3, 3), a([0]), a([1])),
    ):
        case("gather_mm", x, y, left=encode(left), right=encode(right),
             run=lambda x, y, left, right, given=(left, right): mx.gather_mm(x, y, *given))
    for x in (r(2, 4), r(12), a([1, 2]), a([1, 2], H), a([1.0, 2.0, 3.0]), mx.zeros((2, 0))):
        case("hadamard_transform", x)
        case("hadamard_transform", x, scale=1.0)


def convolutions():
    x1, w1 = r(2, 5, 4), r(4, 3, 4)
    for kw in (
        {}, {"stride": 2}, {"padding": 1}, {"dilation": 2}, {"stride": 2, "padding": 2, "dilation": 2}, {"padding": -1},
        {"stride": 0}, {"dilation": 9}, {"groups": 2}, {"padding": -4},
    ):
        w = r(4, 3, 2) if "groups" in kw else w1
        case("conv1d", x1, w, **kw)
        if kw.get("padding") != -1 and "groups" not in kw:
            case("conv_transpose1d", x1, w1, **kw)
    case("conv_transpose1d", x1, w1, stride=2, padding=1, output_padding=1)
    case("conv_transpose1d", x1, r(4, 3, 2), groups=2, stride=2)
    case("conv1d", x1.astype(H), w1)
    case("conv1d", x1.astype(I), w1.astype(I))
    case("conv1d", r(7, 4), w1)
    case("conv1d", x1, r(4, 3, 3))
    x2, w2 = r(1, 5, 4, 2), r(3, 2, 2, 2)
    for kw in ({}, {"stride": [2, 1]}, {"padding": [1, 0]}, {"dilation": [1, 2]}, {"stride": [2, 2], "padding": [1, 1]}):
        tuples = {k: tuple(v) for k, v in kw.items()}
        case("conv2d", x2, w2, run=lambda x, w, t=tuples, **kw: mx.conv2d(x, w, **t), **kw)
        case("conv_transpose2d", x2, w2, run=lambda x, w, t=tuples, **kw: mx.conv_transpose2d(x, w, **t), **kw)
    case("conv3d", r(1, 3, 3, 3, 2), r(2, 2, 2, 2, 2), stride=[1, 2, 1], run=lambda x, w, stride: mx.conv3d(x, w, tuple(stride)))
    case("conv_transpose3d", r(1, 2, 2, 2, 2), r(2, 2, 2, 2, 2), stride=[1, 2, 1],
         run=lambda x, w, stride: mx.conv_transpose3d(x, w, tuple(stride)))
    general = lambda x, w, low, high, **kw: mx.conv_general(x, w, padding=(low, high), **kw)
    for low, high, kw in (
        ([-1], [2], {}), ([1], [2], {"flip": True, "input_dilation": 2}), ([0], [0], {"kernel_dilation": 2, "stride": 2}),
        ([2], [0], {"groups": 2, "flip": True}), ([0], [-2], {}), ([-5], [-5], {}), ([0], [0], {"input_dilation": 3}),
    ):
        case("conv_general", x1, r(4, 3, 2) if "groups" in kw else w1, low=low, high=high, run=general, **kw)
    v, u = a([1.0, 2.0, 3.0, 5.0]), a([1.0, -2.0])
    for mode in ("full", "same", "valid"):
        for x, y in ((v, u), (u, v), (v, a([1.0, 2.0, 4.0])), (v, v), (v, mx.zeros((0,))), (v.astype(I), u.astype(I)), (M, v)):
            case("convolve", x, y, mode=mode)


def main():
    for group in (elementwise, creation, matrices, shapes, joins, reductions, sorts, selections, indexing, products, convolutions):
        group()
    lines = ",\n".join(json.dumps(c, separators=(",", ":"), allow_nan=False, default=str) for c in CASES)
    OUT.write_text(f"[\n{lines}\n]\n")
    errors = sum(c["out"] is None for c in CASES)
    print(f"{len(CASES)} cases, {errors} of them errors, {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
