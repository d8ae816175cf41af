#!/usr/bin/env python3
"""Check with a real MLX what motet writes.

    pip install 'mlx[cpu]==0.32.4' numpy safetensors
    python tools/check_with_mlx.py --motet target/release/motet --scratch DIR FOLDER...

For each NAME.mlxfn in a FOLDER: motet reads it and writes it again to DIR, MLX
imports what motet wrote and is called with the samples beside it
(NAME.safetensors, NAME.call1.safetensors, ...). Its outputs have to be those of
the samples, within the tolerances of the folder's manifest.json. Models of the
group `reject` there are left out: they are damaged.

Prints a line for each model that did not pass, then 'N passed, M failed,
K skipped'. What motet cannot read for a primitive that it does not have counts as
skipped, and its line says why. If MLX crashes, the last name printed tells on what.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np

# The exit code of motet for that.
UNSUPPORTED = 4

# Where no manifest says more; as in `motet check`.
DEFAULT_TOLERANCE = {
    "float16": 1e-2,
    "bfloat16": 5e-2,
    "float32": 1e-4,
    "complex64": 1e-4,
    "float64": 1e-9,
}


def numbered(tensors: dict[str, mx.array], prefix: str) -> list[mx.array]:
    count = 0
    while f"{prefix}{count}" in tensors:
        count += 1
    return [tensors[f"{prefix}{i}"] for i in range(count)]


def name_of(dtype: mx.Dtype) -> str:
    return str(dtype).removeprefix("mlx.core.").replace("bool_", "bool")


def as_numpy(array: mx.array) -> np.ndarray:
    halves = (mx.float16, mx.bfloat16)
    return np.array(array.astype(mx.float32) if array.dtype in halves else array)


def difference(got: mx.array, expected: mx.array, tolerances: dict) -> str | None:
    """What is wrong with an output."""
    if (got.shape, got.dtype) != (expected.shape, expected.dtype):
        return f"got {got.dtype}{got.shape}, expected {expected.dtype}{expected.shape}"
    dtype = name_of(got.dtype)
    default = DEFAULT_TOLERANCE.get(dtype, 0.0)
    relative, absolute = tolerances.get(dtype, (default, default))
    a, b = as_numpy(got), as_numpy(expected)
    if dtype not in DEFAULT_TOLERANCE:
        close = a == b
    else:
        with np.errstate(all="ignore"):
            close = np.isclose(a, b, rtol=relative, atol=absolute, equal_nan=True)
    if close.all():
        return None
    at = tuple(int(i) for i in np.argwhere(~close)[0])
    return f"{int((~close).sum())} of {a.size} differ, first at {at}: got {a[at]}, expected {b[at]}"


class Skipped(Exception):
    """Why a model cannot be checked."""


def check(model: Path, written: Path, motet: Path, entry: dict) -> str | None:
    """What is wrong with a model, if anything."""
    command = [motet, "export", model, "--output", written]
    export = subprocess.run(command, capture_output=True, text=True, check=False)
    if export.returncode == UNSUPPORTED:
        raise Skipped(export.stderr.strip())
    if export.returncode != 0:
        return f"motet export: {export.stderr.strip()}"
    function = mx.import_function(str(written))
    calls = entry.get("calls") or [f"{model.stem}.safetensors"]
    for call in calls:
        tensors = mx.load(str(model.parent / call))
        keywords = {
            name.removeprefix("in.kw."): tensor
            for name, tensor in tensors.items()
            if name.startswith("in.kw.")
        }
        outputs = function(*numbered(tensors, "in."), **keywords)
        expected = numbered(tensors, "out.")
        if len(outputs) != len(expected):
            return f"{call}: got {len(outputs)} outputs, expected {len(expected)}"
        for index, (got, want) in enumerate(zip(outputs, expected)):
            if wrong := difference(got, want, entry.get("tol", {})):
                return f"{call}: out.{index}: {wrong}"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description="Check with MLX what motet writes.")
    parser.add_argument("--motet", type=Path, required=True, help="the command")
    parser.add_argument("--scratch", type=Path, required=True, help="a folder for files")
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    args = parser.parse_args()
    args.scratch.mkdir(parents=True, exist_ok=True)
    passed, failed, skipped = 0, 0, 0
    for folder in args.folders:
        manifest = folder / "manifest.json"
        listed = json.loads(manifest.read_text())["fixtures"] if manifest.exists() else []
        entries = {entry["file"]: entry for entry in listed}
        for model in sorted(folder.glob("*.mlxfn")):
            entry = entries.get(model.name, {})
            if entry.get("group") == "reject":
                continue
            print(f"{model.stem:<40}", end="\r", file=sys.stderr, flush=True)
            try:
                wrong = check(model, args.scratch / model.name, args.motet, entry)
            except Skipped as reason:
                skipped += 1
                print(f"SKIP {model.stem}: {reason}")
                continue
            except (RuntimeError, ValueError) as error:
                wrong = f"MLX: {error}"
            if wrong:
                failed += 1
                print(f"FAIL {model.stem}: {wrong}")
            else:
                passed += 1
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
