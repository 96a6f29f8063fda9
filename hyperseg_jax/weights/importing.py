"""Public checkpoints -> a model folder, a tensor at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from hyperseg_jax.atomic import atomic_folder, check_replaceable
from hyperseg_jax.errors import UserError
from hyperseg_jax.systems import system as systems
from hyperseg_jax.tables import Piece, Published, Row, Rule, first_rule, flatten
from hyperseg_jax.tables.operators import Constant
from hyperseg_jax.text.tokenizer import Tokenizer
from hyperseg_jax.untrusted.printing import listed, shown
from hyperseg_jax.weights import model_folder, peft_adapter
from hyperseg_jax.weights.report import ImportReport
from hyperseg_jax.weights.safetensors_writer import FLOATS, SafetensorsWriter, cast, is_finite, on_all_cores
from hyperseg_jax.weights.tensor_file import TensorFile, open_checkpoint

WRITTEN = ("config.json", "tokenizer.json", "model.safetensors", "import_report.json")
ADAPTER = Rule(r".*/lora_[ab]", "LoRA adapters start anew: a published checkpoint has them merged")


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Where the weight table's name comes from: tensor `name` of `file`, of which the first `rows` are taken (None: all)."""

    file: TensorFile
    name: str
    rows: int | None

    @property
    def shape(self) -> tuple[int, ...]:
        shape = self.file.tensors[self.name].shape
        return shape if self.rows is None or not shape else (min(self.rows, shape[0]), *shape[1:])

    @property
    def dtype(self) -> np.dtype:
        return self.file.tensors[self.name].dtype

    def read(self) -> np.ndarray:
        array = self.file.read(self.name)
        return array if self.rows is None or not array.ndim else array[: self.rows]


def import_weights(
    paths: Sequence[pathlib.Path],
    config: ml_collections.ConfigDict,
    out: pathlib.Path,
    *,
    dtype: str = "source",
    tokenizer: pathlib.Path | None = None,
) -> ImportReport:
    """Writes the model folder `out` (config.json, tokenizer.json, model.safetensors, import_report.json).

    paths: checkpoint files or folders, each of a kind that config.system knows, and PEFT adapters of the config's rank; where
    two hold a tensor, the kind that the system lists first gives it. dtype: of the written tensors, float32, float16 or
    bfloat16; "source" keeps each as it is. tokenizer: its file or folder; else that of one of the
    folders. Raises UserError that lists everything missing, left over without a rule, or of a wrong shape or type; nothing is
    written then.
    """
    system = systems.get(config.system)
    config = ml_collections.ConfigDict(config.to_dict())
    adapters = {path: peft_adapter.read(path, config) for path in paths if (path / peft_adapter.CONFIG).is_file()}
    bases = [path for path in paths if path not in adapters]
    if len(adapters) > 1:
        raise UserError(f"{' and '.join(map(str, adapters))}: a model holds one adapter; give one of them")
    check_replaceable(out, WRITTEN, paths)
    with contextlib.ExitStack() as stack:
        files = [(_kind(system, file), file) for file in (stack.enter_context(open_checkpoint(path)) for path in bases)]
        files.sort(key=lambda given: system.published.index(given[0]))
        for (kind, file), (again, other) in itertools.pairwise(files):
            if kind == again:
                raise UserError(f"{file.path} and {other.path}: both are {kind.name}; give one of them")
        report = ImportReport(out, {kind.name: str(file.path) for kind, file in files})
        found = _assign(system, files, report)
        _follow_sizes(config, files, found, report)
        text = _tokenizer(system, tokenizer, [file.path for _, file in files], config)
        model = system.build(config)
        init = lambda key: flatten(system.init_plain(model, config, key))
        expected = flatten(system.shapes(config))
        given = {path: array for adapter in adapters.values() for path, array in adapter.items()}
        report.sources |= {f"PEFT adapter {path.name}": str(path) for path in adapters}
        rows, fresh = _fit(system.weight_table(config).rows, found, expected, given, [kind for kind, _ in files], report)
        made = _start_anew(init, fresh, jax.random.key(config.seed)) if fresh else {}
        leaves = _leaf_types(rows, found, expected, fresh, given, dtype)
        with atomic_folder(out) as part:
            text.save(part)
            (part / "config.json").write_text(config.to_json(indent=2, sort_keys=True) + "\n", encoding="utf-8")
            with SafetensorsWriter(part / "model.safetensors", leaves, {"format": model_folder.FORMAT}) as writer:
                for path, value in {**made, **given}.items():
                    writer.write(path, _cast(np.asarray(value), leaves[path][1], path))
                pieces = [piece for row in rows for piece in row.pieces()]
                on_all_cores(lambda piece: _convert(piece, found, leaves, writer), pieces)
            report.loaded = {
                path: {"shape": list(shape), "dtype": kind.name} for path, (shape, kind) in leaves.items() if path not in fresh
            }
            report.save(part / "import_report.json")
    return report


def _kind(system: systems.System, file: TensorFile) -> Published:
    for kind in system.published:
        if kind.is_in(file.tensors):
            return kind
    known = "\n  ".join(f"{kind.name}: {kind.file}" for kind in system.published)
    held = shown(", ".join(list(file.tensors)[:3]))
    raise UserError(f"{file.path}: holds nothing that {system.name} knows (its names begin {held}); give one of\n  {known}")


def _assign(system: systems.System, files: Sequence[tuple[Published, TensorFile]], report: ImportReport) -> dict[str, Tensor]:
    """{name in the weight table: where it comes from}. What a rule leaves out goes to the report."""
    found: dict[str, Tensor] = {}
    for kind, file in files:
        rows = dict(kind.rows)
        for name in file.ignored:
            report.ignore(kind.name, name, "not a tensor of the model")
        for name in file.tensors:
            rule = first_rule(kind.ignored, name)
            renamed = kind.rename(name)
            if rule is not None:
                report.ignore(kind.name, name, rule.reason)
            elif renamed in found:
                other = found[renamed].file.path
                if file.path == other:
                    raise UserError(f"{file.path}: {found[renamed].name} and {name} are both {renamed}; take another copy")
                report.ignore(kind.name, name, f"{other} holds it as well")
            else:
                found[renamed] = Tensor(file, name, rows.get(renamed))
                if found[renamed].shape != file.tensors[name].shape:
                    report.ignore(kind.name, f"{name}[{rows[renamed]}:]", f"only its first {rows[renamed]} rows are used")
    return found


def _follow_sizes(
    config: ml_collections.ConfigDict,
    files: Sequence[tuple[Published, TensorFile]],
    found: Mapping[str, Tensor],
    report: ImportReport,
) -> None:
    """Config fields that a checkpoint decides, such as the rows of its token table."""
    for kind, _ in files:
        for field, (name, axis) in kind.sizes:
            if name in found and len(found[name].shape) > axis:
                *parents, leaf = field.split(".")
                node = config
                for parent in parents:
                    node = node[parent]
                if node[leaf] != found[name].shape[axis]:
                    report.config[field] = [node[leaf], found[name].shape[axis]]
                    node[leaf] = found[name].shape[axis]


def _tokenizer(
    system: systems.System, given: pathlib.Path | None, paths: Sequence[pathlib.Path], config: ml_collections.ConfigDict
) -> Tokenizer:
    held = given or next((path for path in paths if path.is_dir() and Tokenizer.is_in(path)), None)
    if held is not None:
        return system.tokenizer(config, held)
    try:
        return system.tokenizer(config)
    except UserError as error:
        raise UserError(
            f"none of the sources holds a tokenizer, and neither does the config ({error}); give one with --tokenizer"
        ) from error


def _fit(
    rows: Sequence[Row],
    found: Mapping[str, Tensor],
    expected: Mapping[str, Any],
    given: Mapping[str, Any],
    kinds: Sequence[Published],
    report: ImportReport,
) -> tuple[list[Row], list[str]]:
    """(rows that are held, paths that start anew), or UserError with all that does not fit."""
    rules = [rule for kind in kinds for rule in kind.fresh]
    kept: list[Row] = []
    fresh: list[str] = []
    problems: list[str] = []
    known = {name for row in rows for name in row.names}
    problems += [f"left over: {tensor.name} of {tensor.file.path}" for name, tensor in found.items() if name not in known]
    for row in rows:
        absent = [name for name in row.names if name not in found]
        reasons = {rule.reason for name in row.names if (rule := first_rule(rules, name)) is not None}
        if isinstance(row.operator, Constant) and absent == list(row.names):
            continue  # a buffer that some versions do not save
        if absent == list(row.names) and reasons:
            fresh += row.paths
            report.start_anew(row.paths, " ".join(sorted(reasons)))
        elif absent:
            problems += [f"missing: {name}" for name in absent]
        else:
            kept.append(row)
            problems += _misfits(row, found, expected)
    filled = {path for row in rows for path in row.paths} | given.keys()
    for path in expected:
        if path not in filled and first_rule((ADAPTER,), path):
            fresh.append(path)
            report.start_anew((path,), ADAPTER.reason)
        elif path not in filled:
            problems.append(f"not in the weight table: {path}")
    if problems:
        names = ", ".join(kind.name for kind in kinds)
        raise UserError(
            f"the sources ({names}) do not fill the model of this config; give all parents that are needed, or the "
            f"config of this checkpoint:{listed(problems)}"
        )
    return kept, fresh


def _misfits(row: Row, found: Mapping[str, Tensor], expected: Mapping[str, Any]) -> list[str]:
    problems = []
    for _, place, names, operator in row.pieces():
        tensors = [found[name] for name in names]
        integers = [
            name
            for name, tensor in zip(names, tensors, strict=True)
            if not isinstance(operator, Constant) and tensor.dtype.name not in (*FLOATS, "float64")
        ]
        if integers:
            problems += [f"{name}: {found[name].dtype}, a parameter is a floating-point tensor" for name in integers]
            continue
        if isinstance(operator, Constant):
            (made,) = operator.to_torch(())
            if tensors[0].shape != made.shape or not np.array_equal(tensors[0].read(), made):
                problems.append(f"{names[0]}: differs from what the config says (window size?)")
            continue
        hollow = tuple(np.broadcast_to(np.zeros((), np.int8), tensor.shape) for tensor in tensors)
        described = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in zip(names, tensors, strict=True))
        try:
            shapes = [leaf.shape for leaf in operator.to_flax(hollow)]
        except (ValueError, IndexError):
            problems.append(f"{described}: cannot become {', '.join(row.paths)}")
            continue
        for path, shape in zip(row.paths, shapes, strict=True):
            wanted = tuple(expected[path].shape[len(place) :])
            if shape != wanted:
                problems.append(f"{described}: becomes {path} {list(shape)}, the config wants {list(wanted)}")
    return problems


def _start_anew(init: Callable[[jax.Array], dict[str, Any]], paths: Sequence[str], key: jax.Array) -> dict[str, jax.Array]:
    """Fresh values of these leaves; the compiler drops the others, so that the rest of the model takes no memory."""

    def some(key: jax.Array) -> dict[str, jax.Array]:
        made = init(key)
        return {path: made[path] for path in paths}

    return jax.jit(some)(key)


def _leaf_types(
    rows: Sequence[Row],
    found: Mapping[str, Tensor],
    expected: Mapping[str, Any],
    fresh: Sequence[str],
    given: Mapping[str, np.ndarray],
    dtype: str,
) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """{path: (shape, type)} of the file to write, in the table's order."""
    of: dict[str, np.dtype] = {}
    for row in rows:
        types = {found[name].dtype for name in row.names}
        of |= dict.fromkeys(row.paths, types.pop() if len(types) == 1 else FLOATS["float32"])
    of |= {path: np.dtype(expected[path].dtype) for path in fresh} | {path: array.dtype for path, array in given.items()}
    return {path: (tuple(expected[path].shape), kind if dtype == "source" else FLOATS[dtype]) for path, kind in of.items()}


def _convert(
    piece: Piece, found: Mapping[str, Tensor], leaves: Mapping[str, tuple[tuple[int, ...], np.dtype]], writer: SafetensorsWriter
) -> None:
    if not piece.paths:  # a constant
        return
    made = piece.operator.to_flax(tuple(found[name].read() for name in piece.names))
    for path, leaf in zip(piece.paths, made, strict=True):
        writer.write(path, _cast(leaf, leaves[path][1], ", ".join(piece.names)), piece.place)


def _cast(array: np.ndarray, dtype: np.dtype, names: str) -> np.ndarray:
    if not is_finite(array):
        raise UserError(f"{names}: has numbers that are not finite; give the weights of a training that did not diverge")
    try:
        return cast(array, dtype, names)
    except OverflowError:
        raise UserError(f"{names}: has values beyond {dtype}; use a wider --dtype") from None
