"""Golden cases: finding, loading and comparing them. See conftest.py for how a test uses them."""

from __future__ import annotations

import json
import os
import pathlib
import re
import zlib
from collections.abc import Iterable

import numpy as np
from safetensors.numpy import load_file

BUNDLED = pathlib.Path(__file__).parent


def golden_roots() -> list[pathlib.Path]:
    return [BUNDLED, *(pathlib.Path(p) for p in os.environ.get("HYPERSEG_GOLDEN", "").split(":") if p)]


def find_cases(system: str) -> dict[str, pathlib.Path]:
    """Returns {case name: folder}. Later roots win, so that a full case replaces the bundled one of the same name."""
    return {path.parent.name: path.parent for root in golden_roots() for path in sorted(root.glob(f"{system}/*/meta.json"))}


def find_files(system: str, name: str) -> list[pathlib.Path]:
    """Returns a recorded file that is no case, such as "full_manifest.json", from each root that has it."""
    return [path for root in golden_roots() if (path := root / system / name).exists()]


def _make_rng(name: str) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=zlib.crc32(name.encode())))


def recipe_normal(name: str, shape: list[int], mean: float, std: float) -> np.ndarray:
    return (_make_rng(name).standard_normal(shape, dtype=np.float32) * np.float32(std) + np.float32(mean)).astype(np.float32)


def recipe_uniform(name: str, shape: list[int]) -> np.ndarray:
    return _make_rng(name).random(shape, dtype=np.float32)


def subsample(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns every k-th entry of each axis, down to `shape`: large tensors are stored subsampled."""
    assert array.ndim == len(shape), f"{array.shape} cannot be subsampled to {shape}"
    steps = [-(-have // stored) if stored else 1 for have, stored in zip(array.shape, shape, strict=True)]
    return array[tuple(slice(None, None, max(step, 1)) for step in steps)]


class GoldenCase:
    """A loaded golden case and its comparison with our outputs."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.name = f"{folder.parent.name}/{folder.name}"
        self.meta = json.loads((folder / "meta.json").read_text())
        self.config = self.meta.get("config", {})
        self.folder = folder
        self.inputs = self._arrays("inputs") | self._draw_inputs()
        self.outputs = self._arrays("outputs")
        self.rows: list[tuple[str, float, float]] = []
        self.notes: list[str] = []
        self.measured: list[tuple[str, dict[str, float]]] = []  # (label, values that are reported but not checked)

    def _arrays(self, stem: str) -> dict[str, np.ndarray]:
        path = self.folder / f"{stem}.safetensors"
        return load_file(path) if path.exists() else {}

    def _draw_inputs(self) -> dict[str, np.ndarray]:
        draws = self.meta.get("input_draws")
        if not draws:
            return {}
        rng = np.random.default_rng(draws["seed"])
        return {
            d["name"]: rng.standard_normal(d["shape"], dtype=np.float32) for d in draws["successive_standard_normal_float32"]
        }

    @property
    def weights(self) -> dict[str, np.ndarray]:
        rows = {row["name"]: row for row in json.loads((self.folder / "manifest.json").read_text())}
        result = {}
        for name, row in rows.items():
            if not row.get("computed"):
                twin = rows.get(row.get("tied_to") or row.get("alias_of") or name, row)
                result[name] = recipe_normal(twin["name"], twin["shape"], twin["mean"], twin["std"])
        return result

    def floor(self, name: str) -> float | None:
        plain = self.meta.get("tolerances_fp32_vs_fp64", {}).get(name)
        if plain is not None:
            return plain
        entry = self.meta.get("fp32_vs_fp64", {}).get(name)
        if entry is not None:
            return entry.get("max_abs")
        largest = self.meta.get("fp32_vs_fp64_max_abs_diff", {}).get("worst")
        if largest is not None:  # [floor, output] of the worst outputs; those of the others are smaller
            return {output: floor for floor, output in largest}.get(name, min(floor for floor, _ in largest))
        measured = self.meta.get("fp32_vs_fp64_max_abs")
        if measured is not None:
            return measured.get(name) if isinstance(measured, dict) else measured
        tolerance = self.meta.get("tolerance", {})
        floors = tolerance.get("fp32_vs_fp64_max_abs", tolerance.get("fp32_vs_fp64_abs"))
        if name.startswith(("step0/", "step1/")):  # the rule of train_4_steps: the floor holds from step 2 on
            return None
        return floors.get(name) if isinstance(floors, dict) else None

    def draw_input(self, name: str) -> np.ndarray:
        """Generates an input that is not stored: `input_recipe` in meta.json gives its
        full name, its spread and in some cases its shape.

        "'dev/x/scale<i>' std 0.5" describes scale0, scale1 and so on. Use `draw_input_as` if the recipe has
        no shape.
        """
        full, std, shape = self._recipe(name)
        assert shape is not None, f"{self.name}: the recipe of {name} gives no shape"
        return recipe_normal(full, shape, 0, std)

    def draw_input_as(self, name: str, shape: Iterable[int]) -> np.ndarray:
        """Generates an input that is not stored, with the given shape."""
        full, std, _ = self._recipe(name)
        return recipe_normal(full, list(shape), 0, std)

    def _recipe(self, name: str) -> tuple[str, float, list[int] | None]:
        """(full name, standard deviation, shape or None) of a drawn input."""
        text = json.dumps(self.meta["input_recipe"])
        for full, std, shape in re.findall(r"'([^'\s]+)',? std ([\d.]+)(?:, shape (\[[\d, ]+\]))?", text):
            pattern = re.sub(r"<\w+>", r"\\w+", full)
            stem = re.split(r"\d|/", name)[0]
            complete = full[: full.rfind(f"/{stem}") + 1] + name
            if f"/{stem}" in full and re.fullmatch(pattern, complete):
                return complete, float(std), json.loads(shape) if shape else None
        raise AssertionError(f"{self.name}: no recipe for {name} in {text}")

    def sign_tolerance(self, names: Iterable[str], floors: int) -> float:
        """Returns the largest magnitude of a logit whose sign may differ: `floors` times the largest floor of these
        outputs, or 0 without measured floors."""
        measured = [self.floor(name) for name in names if not name.endswith("_stats")]
        return floors * max((floor for floor in measured if floor is not None), default=0.0)

    def compare(self, name: str, actual, expected=None, *, kind: str = "value", slack: float = 0.0) -> None:
        """Records the worst error of one tensor. kind "gradient" takes the gradient rule where there is no floor. slack: what a
        legal choice at a discontinuity may add to the error; it is printed."""
        expected = np.asarray(self.outputs[name] if expected is None else expected)
        actual = np.asarray(actual)
        assert actual.shape == expected.shape, f"{self.name} {name}: shape {actual.shape}, expected {expected.shape}"
        assert np.isfinite(actual).all(), f"{self.name} {name}: not finite"
        if expected.dtype.kind in "iub":
            self.rows.append((name, float((actual.astype(np.int64) != expected.astype(np.int64)).sum()), 0.0))
            return
        if not expected.size:
            self.rows.append((name, 0.0, 0.0))
            return
        error = np.abs(actual.astype(np.float64) - expected.astype(np.float64))
        spread = 2e-5 * float(expected.std(dtype=np.float64))
        floor = self.floor(name)
        if floor is not None and expected.size == 1 and floor <= np.spacing(np.abs(expected).astype(np.float32)).max():
            floor = None  # of a single number, this is a rounding that happened or not, and no measurement
        if floor is not None:
            tolerance = np.full(error.shape, max(10 * floor, spread))
        elif kind == "gradient":
            tolerance = 1e-3 * np.abs(expected) + 1e-6
        else:
            tolerance = np.maximum(1e-4 * np.abs(expected.astype(np.float64)), spread)
        worst = np.unravel_index(np.argmax(error - tolerance), error.shape)
        if slack and error[worst] > tolerance[worst]:
            self.notes.append(f"{name}: error {error[worst]:.1e} > {tolerance[worst]:.1e}, legal choices add {slack:.1e}")
            tolerance = tolerance + slack
        self.rows.append((name, float(error[worst]), float(tolerance[worst])))

    def compare_gradient(self, name: str, actual, *, rerun_noise: float) -> None:
        """Records the worst error of a gradient whose recorded values are only reproducible up to rerun_noise: elements beyond
        the gradient rule may differ by this, and are printed."""
        assert actual.shape == self.outputs[name].shape, f"{self.name} {name}: shape {actual.shape}"
        expected = self.outputs[name].astype(np.float64)
        error = np.abs(np.asarray(actual, np.float64) - expected)
        beyond = error > 1e-3 * np.abs(expected) + 1e-6
        largest = float(error[beyond].max(initial=0))
        if largest:
            self.notes.append(f"{name}: {beyond.sum()} of {beyond.size} elements within the noise of a rerun, {largest:.1e}")
        self.rows.append((name, largest, rerun_noise))

    def compare_signs(self, name: str, actual, expected, logits, allowed: float) -> int:
        """Records how many bits of `logit > 0` differ beyond the tolerance, and returns how many differ at all.

        A bit may differ where our logit lies within `allowed` of zero, and is printed. For attention masks `allowed` is 10
        x the floor of the logits. For the pixels of a predicted mask it is the floor itself: the reference's own float32 and
        float64 runs may differ in sign as well.
        """
        flipped = np.asarray(actual, bool) != np.asarray(expected, bool)
        near = np.abs(np.asarray(logits)[flipped])
        if len(near):
            self.notes.append(
                f"{name}: {len(near)} of {flipped.size} bits flipped, largest |logit| {near.max():.1e}, limit {allowed:.1e}"
            )
        self.rows.append((name, float((near > allowed).sum()), 0.0))
        return len(near)

    def check(self, *, skipped: Iterable[str] = ()) -> None:
        """Asserts that every output was compared and within tolerance.

        skipped: outputs that are not compared: inputs of the test, or those after a tolerated sign flip.
        """
        bad = [f"{name}: error {error:.3g} > {tolerance:.3g}" for name, error, tolerance in self.rows if error > tolerance]
        bad += [f"{name}: not compared" for name in self.outputs.keys() - {name for name, *_ in self.rows} - set(skipped)]
        assert not bad, f"{self.name}:\n  " + "\n  ".join(bad)
        assert self.rows, f"{self.name}: nothing was compared"
