"""Converts public checkpoints to a model folder, one tensor at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from hyperseg_jax import config as configs
from hyperseg_jax.atomic import atomic_folder, check_replaceable
from hyperseg_jax.errors import UserError
from hyperseg_jax.systems import system as systems
from hyperseg_jax.tables import Piece, Row, Rule, SourceCheckpoint, find_first_rule, flatten
from hyperseg_jax.tables.operators import Constant
from hyperseg_jax.text.tokenizer import Tokenizer
from hyperseg_jax.untrusted import strict_json
from hyperseg_jax.untrusted.bad_file import naming_path
from hyperseg_jax.untrusted.paths import model_file_path
from hyperseg_jax.untrusted.printing import escaped, escaped_value, listed
from hyperseg_jax.weights import model_folder, peft_adapter
from hyperseg_jax.weights.exporting import PUBLISHED_FIELDS
from hyperseg_jax.weights.file_names import check_file_name
from hyperseg_jax.weights.report import ImportReport
from hyperseg_jax.weights.safetensors_writer import (
    FLOATS,
    SafetensorsWriter,
    cast_without_overflow,
    is_all_finite,
    run_in_threads,
)
from hyperseg_jax.weights.tensor_file import TensorFile, open_checkpoint

WRITTEN = ("config.json", "tokenizer.json", "model.safetensors", "import_report.json")
ADAPTER = Rule(r".*/lora_[ab]", "LoRA adapters are initialized: published checkpoints have them merged into the kernels")


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of a checkpoint: the first `rows` rows (None: all) of tensor `name` of `file`, and `added` rows of zeros."""

    file: TensorFile
    name: str
    rows: int | None = None
    added: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        shape = self.file.tensors[self.name].shape
        if not shape:
            return shape
        rows = shape[0] if self.rows is None else min(self.rows, shape[0])
        return rows + self.added, *shape[1:]

    @property
    def dtype(self) -> np.dtype:
        return self.file.tensors[self.name].dtype

    def read(self) -> np.ndarray:
        array = self.file.read(self.name)
        if not array.ndim:
            return array
        array = array[: self.rows]
        return np.concatenate([array, np.zeros((self.added, *array.shape[1:]), array.dtype)]) if self.added else array


def import_weights(
    paths: Sequence[pathlib.Path],
    config: ml_collections.ConfigDict,
    out: pathlib.Path,
    *,
    dtype: str = "source",
    tokenizer: pathlib.Path | None = None,
) -> ImportReport:
    """Writes the model folder `out` (config.json, tokenizer.json, model.safetensors, import_report.json).

    paths: checkpoint files or folders of the published formats of config.system, and PEFT adapters of the config's rank. If
    several contain a tensor, the format that the system lists first takes precedence. dtype: of the written tensors: float32,
    float16, bfloat16, or "source" (unchanged). tokenizer: its file or folder; default: the tokenizer of one of the checkpoint
    folders. Raises UserError listing all tensors that are missing, unexpected, or of a wrong shape or dtype, without writing
    anything.
    """
    system = systems.get(config.system)
    config = ml_collections.ConfigDict(config.to_dict())
    adapters = {path: peft_adapter.read_adapter(path, config) for path in paths if (path / peft_adapter.CONFIG).is_file()}
    bases = [path for path in paths if path not in adapters]
    if len(adapters) > 1:
        raise UserError(f"{' and '.join(map(str, adapters))}: a model can have only one adapter; give one of them")
    check_replaceable(out, WRITTEN, paths)
    with contextlib.ExitStack() as stack:
        files = [
            (_identify_checkpoint(system, file), file)
            for file in (stack.enter_context(open_checkpoint(path)) for path in bases)
        ]
        files.sort(key=lambda item: system.source_checkpoints.index(item[0]))
        for (kind, file), (next_kind, next_file) in itertools.pairwise(files):
            if kind == next_kind:
                raise UserError(f"{file.path} and {next_file.path}: both are {kind.name}; give one of them")
        report = ImportReport(out, {kind.name: str(file.path) for kind, file in files})
        tensors = _assign_sources(system, files, report)
        _update_sizes(config, files, tensors, report)
        restored = _restore_published_fields(config, system, files, report)
        _check_settings(config, files, report)
        _check_shapes(config, files)
        for kind, file in files:
            report.notes += check_file_name(kind, file.path, config, restored)
        text = _load_tokenizer(system, tokenizer, [file.path for _, file in files], config)
        model = system.build(config)
        init = lambda key: flatten(system.init_plain(model, config, key))
        expected = flatten(system.shapes(config))
        lora = {path: array for adapter in adapters.values() for path, array in adapter.items()}
        report.sources |= {f"PEFT adapter {path.name}": str(path) for path in adapters}
        try:
            rows, missing = _match_rows(system.weight_table(config).rows, tensors, expected, lora, files, report)
        except UserError:
            for _, file in files:
                _refuse_other_system(system, file)
            raise
        initialized = _initialize_params(init, missing, jax.random.key(config.seed)) if missing else {}
        leaves = _leaf_types(rows, tensors, expected, missing, lora, dtype)
        with atomic_folder(out) as part:
            if text is not None:
                text.save(part)
            (part / "config.json").write_text(config.to_json(indent=2, sort_keys=True) + "\n", encoding="utf-8")
            with SafetensorsWriter(part / "model.safetensors", leaves, {"format": model_folder.FORMAT}) as writer:
                for path, value in {**initialized, **lora}.items():
                    where = f"{next(iter(adapters))}: {path}" if path in lora else path
                    writer.write(path, _cast_finite(np.asarray(value), leaves[path][1], where))
                pieces = [piece for row in rows for piece in row.pieces()]
                run_in_threads(lambda piece: _convert_and_write(piece, tensors, leaves, writer), pieces)
            report.loaded = {
                path: {"shape": list(shape), "dtype": kind.name}
                for path, (shape, kind) in leaves.items()
                if path not in missing
            }
            report.save(part / "import_report.json")
    return report


def _identify_checkpoint(system: systems.System, file: TensorFile) -> SourceCheckpoint:
    """Returns the kind of checkpoint of a file. Raises UserError if it is not a kind that the system knows."""
    for kind in system.source_checkpoints:
        if kind.is_in(file.tensors):
            return kind
    _refuse_other_system(system, file)
    known = "\n  ".join(f"{kind.name}: {kind.file}" for kind in system.source_checkpoints)
    names = escaped(", ".join(list(file.tensors)[:3]))
    raise UserError(
        f"{file.path}: is not a checkpoint known to {system.name} (its first tensors are {names}); give one of\n  {known}"
    )


def _refuse_other_system(system: systems.System, file: TensorFile) -> None:
    """Raises UserError if a file is a checkpoint that only another system knows."""
    own = {kind.name for kind in system.source_checkpoints}
    for name in systems.registered_names():
        for kind in systems.get(name).source_checkpoints:
            if kind.name not in own and kind.is_in(file.tensors):
                raise UserError(
                    f"{file.path}: is {kind.name}, a checkpoint of the system {name}, and the config is of {system.name}; give "
                    f"a config of {name}"
                )


def _assign_sources(
    system: systems.System, files: Sequence[tuple[SourceCheckpoint, TensorFile]], report: ImportReport
) -> dict[str, Tensor]:
    """Returns {name in the weight table: tensor of a checkpoint}. Ignored tensors are added to the report."""
    sources: dict[str, Tensor] = {}
    for kind, file in files:
        rows, added = dict(kind.rows), dict(kind.added_rows)
        for name in file.ignored:
            report.add_ignored(kind.name, name, "not a tensor of the model")
        for name in file.tensors:
            rule = find_first_rule(kind.ignored, name)
            renamed = kind.rename(name)
            if rule is not None:
                report.add_ignored(kind.name, name, rule.reason)
            elif renamed in sources:
                first_path = sources[renamed].file.path
                if file.path == first_path:
                    raise UserError(
                        f"{file.path}: {sources[renamed].name} and {name} are both {renamed}; get another copy of the file"
                    )
                report.add_ignored(kind.name, name, f"already taken from {first_path}")
            else:
                sources[renamed] = Tensor(file, name, rows.get(renamed), added.get(renamed, 0))
                if added.get(renamed):
                    report.notes.append(f"{kind.name}: {name} gets {added[renamed]} more rows, of zeros")
                elif sources[renamed].shape != file.tensors[name].shape:
                    report.add_ignored(kind.name, f"{name}[{rows[renamed]}:]", f"only its first {rows[renamed]} rows are used")
    return sources


def _update_sizes(
    config: ml_collections.ConfigDict,
    files: Sequence[tuple[SourceCheckpoint, TensorFile]],
    tensors: Mapping[str, Tensor],
    report: ImportReport,
) -> None:
    """Sets config fields that are determined by a checkpoint, such as the number of token embeddings."""
    for kind, _ in files:
        for field, (name, axis) in kind.sizes:
            if name in tensors and len(tensors[name].shape) > axis:
                _set_field(config, field, tensors[name].shape[axis], report)


def _restore_published_fields(
    config: ml_collections.ConfigDict,
    system: systems.System,
    files: Sequence[tuple[SourceCheckpoint, TensorFile]],
    report: ImportReport,
) -> set[str]:
    """Sets the published fields (System.published_fields) to the values that the config.json of an export of this package has,
    and returns these fields. If the system's own checkpoint comes without them, other values of the config are kept, and added
    to the report."""
    defaults = {row.field: row.values[0] for row in system.published_fields}
    defaults |= {field: default for row in system.published_fields for field, default in row.details}
    has_own, restored = False, set[str]()
    for kind, file in files:
        is_own = kind == system.source_checkpoints[0]
        has_own |= is_own
        path = file.path.parent if is_own and not file.path.is_dir() else file.path
        if not (path / "config.json").is_file():
            continue
        with naming_path(path):
            recorded = strict_json.read(model_file_path(path, "config.json")).get(PUBLISHED_FIELDS)
        for field, value in recorded.items() if isinstance(recorded, Mapping) else ():
            if field not in defaults or type(value) is not type(defaults[field]):
                _refuse_other_system(system, file)
                raise UserError(
                    f"{path}/config.json: {PUBLISHED_FIELDS}: {escaped(field)} = {escaped_value(value)} is no field that an "
                    f"export of {system.name} records; use the unmodified folder of an export"
                )
            restored.add(field)
            if value != flatten({"model": config.model.to_dict()}).get(field.replace(".", "/"), defaults[field]):
                _set_field(config, field, value, report)
        try:
            configs.check_fields(config, "")
            system.shapes(config)
        except UserError as error:
            raise UserError(f"{path}/config.json: {error}; use the unmodified folder of an export") from error
    for field, (value, meaning) in system.departures(config).items():
        if has_own and field not in restored:
            report.notes.append(f"{field} = {value} is from the config, as the checkpoint records none; {meaning}")
    return restored


def _check_settings(
    config: ml_collections.ConfigDict, files: Sequence[tuple[SourceCheckpoint, TensorFile]], report: ImportReport
) -> None:
    """Raises UserError if the config.json of a checkpoint is that of another model than the config. Adds to the report which of
    them have none."""
    for kind, file in files:
        folder = file.path if file.path.is_dir() else file.path.parent
        if kind.check_settings is None:
            continue
        if not (folder / "config.json").is_file():
            report.notes.append(f"{kind.name}: {folder} has no config.json, so its settings were not compared with the config")
            continue
        with naming_path(folder):
            content = strict_json.read(model_file_path(folder, "config.json"))
        try:
            kind.check_settings(content, config)
        except UserError as error:
            raise UserError(f"{folder}/config.json: {error}") from error


def _check_shapes(config: ml_collections.ConfigDict, files: Sequence[tuple[SourceCheckpoint, TensorFile]]) -> None:
    """Raises UserError if the tensors of a checkpoint are those of a known other model than the config."""
    for kind, file in files:
        if kind.check_shapes is None:
            continue
        try:
            kind.check_shapes({kind.rename(name): info.shape for name, info in file.tensors.items()}, config)
        except UserError as error:
            raise UserError(f"{file.path}: {error}") from error


def _set_field(config: ml_collections.ConfigDict, field: str, value: Any, report: ImportReport) -> None:
    """Sets a field of the config, given as "model.llm.vocab_size", to the value of a checkpoint."""
    names = field.split(".")
    present = flatten(config.to_dict()).get("/".join(names))
    if present != value:
        report.config[field] = [present, value]
        with config.unlocked():
            config.update(functools.reduce(lambda inner, name: {name: inner}, reversed(names), value))


def _load_tokenizer(
    system: systems.System, chosen: pathlib.Path | None, paths: Sequence[pathlib.Path], config: ml_collections.ConfigDict
) -> Tokenizer | None:
    """Loads the chosen tokenizer, or else that of the first source folder with one, or else that of the config.
    Returns None if the system has no text."""
    if system.tokenizer is None:
        return None
    source = chosen or next((path for path in paths if path.is_dir() and Tokenizer.is_in(path)), None)
    if source is not None:
        return system.tokenizer(config, source)
    try:
        return system.tokenizer(config)
    except UserError as error:
        raise UserError(
            f"neither the sources nor the config contain a tokenizer ({error}); give one with --tokenizer"
        ) from error


def _match_rows(
    rows: Sequence[Row],
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, Any],
    lora: Mapping[str, Any],
    files: Sequence[tuple[SourceCheckpoint, TensorFile]],
    report: ImportReport,
) -> tuple[list[Row], list[str]]:
    """Returns (rows of the weight table that the sources contain, paths to be initialized). Raises UserError listing all
    mismatches."""
    rules = [rule for kind, file in files for rule in kind.initialized if not _is_in_others(rule, file, tensors)]
    available: list[Row] = []
    uninitialized: list[str] = []
    problems: list[str] = []
    known = {name for row in rows for name in row.names}
    problems += [f"unexpected: {tensor.name} of {tensor.file.path}" for name, tensor in tensors.items() if name not in known]
    for row in (row.without_absent_copies(tensors) for row in rows):
        missing = [name for name in row.names if name not in tensors]
        reasons = {rule.reason for name in row.names if (rule := find_first_rule(rules, name)) is not None}
        if isinstance(row.operator, Constant) and missing == list(row.names):
            continue  # a buffer that some versions do not save
        if missing == list(row.names) and reasons:
            uninitialized += row.paths
            report.add_initialized(row.paths, " ".join(sorted(reasons)))
        elif missing:
            problems += [f"missing: {name}" for name in missing]
        else:
            available.append(row)
            problems += _describe_mismatches(row, tensors, expected)
    filled = {path for row in rows for path in row.paths} | lora.keys()
    for path in expected:
        if path not in filled and find_first_rule((ADAPTER,), path):
            uninitialized.append(path)
            report.add_initialized((path,), ADAPTER.reason)
        elif path not in filled:
            problems.append(f"not in the weight table: {path}")
    if problems:
        names = ", ".join(kind.name for kind, _ in files)
        raise UserError(
            f"the sources ({names}) do not match the model of this config; give all required checkpoints, or the "
            f"config of this checkpoint:{listed(problems)}"
        )
    return available, uninitialized


def _is_in_others(rule: Rule, file: TensorFile, tensors: Mapping[str, Tensor]) -> bool:
    """Returns whether another source than `file` has tensors that the rule describes."""
    return any(tensor.file is not file and find_first_rule((rule,), name) for name, tensor in tensors.items())


def _describe_mismatches(row: Row, tensors: Mapping[str, Tensor], expected: Mapping[str, Any]) -> list[str]:
    """Returns an error message for each tensor of a row with a wrong shape, dtype or constant value."""
    problems = []
    for _, place, names, operator in row.pieces():
        row_tensors = [tensors[name] for name in names]
        integers = [
            name
            for name, tensor in zip(names, row_tensors, strict=True)
            if not isinstance(operator, Constant) and tensor.dtype.name not in (*FLOATS, "float64")
        ]
        if integers:
            problems += [f"{name}: {tensors[name].dtype}, but parameters are floating-point tensors" for name in integers]
            continue
        if isinstance(operator, Constant):
            (constant,) = operator.to_torch(())
            if row_tensors[0].shape != constant.shape or not np.array_equal(row_tensors[0].read(), constant):
                problems.append(f"{names[0]}: differs from the value computed from the config (window size?)")
            continue
        placeholders = tuple(np.broadcast_to(np.zeros((), np.int8), tensor.shape) for tensor in row_tensors)
        described = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in zip(names, row_tensors, strict=True))
        try:
            shapes = [leaf.shape for leaf in operator.to_flax(placeholders)]
        except (ValueError, IndexError):
            problems.append(f"{described}: cannot be converted to {', '.join(row.paths)}")
            continue
        for path, shape in zip(row.paths, shapes, strict=True):
            expected_shape = tuple(expected[path].shape[len(place) :])
            if shape != expected_shape:
                problems.append(f"{described}: becomes {path} {list(shape)}, the config expects {list(expected_shape)}")
    return problems


def _initialize_params(
    init: Callable[[jax.Array], dict[str, Any]], paths: Sequence[str], key: jax.Array
) -> dict[str, jax.Array]:
    """Initializes these parameters. Under jit, the compiler drops all other parameters, so that they take no memory."""

    def init_selected(key: jax.Array) -> dict[str, jax.Array]:
        params = init(key)
        return {path: params[path] for path in paths}

    return jax.jit(init_selected)(key)


def _leaf_types(
    rows: Sequence[Row],
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, Any],
    missing: Sequence[str],
    lora: Mapping[str, np.ndarray],
    dtype: str,
) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Returns {path: (shape, dtype)} of the output file, in the order of the table."""
    dtypes: dict[str, np.dtype] = {}
    for row in rows:
        row_dtypes = {tensors[name].dtype for name in row.names}
        dtypes |= dict.fromkeys(row.paths, row_dtypes.pop() if len(row_dtypes) == 1 else FLOATS["float32"])
    dtypes |= {path: np.dtype(expected[path].dtype) for path in missing} | {path: array.dtype for path, array in lora.items()}
    return {path: (tuple(expected[path].shape), kind if dtype == "source" else FLOATS[dtype]) for path, kind in dtypes.items()}


def _convert_and_write(
    piece: Piece,
    tensors: Mapping[str, Tensor],
    leaves: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    writer: SafetensorsWriter,
) -> None:
    """Converts the tensors of a piece to Flax parameters and writes them."""
    if not piece.paths:  # a constant
        return
    arrays = piece.operator.to_flax(tuple(tensors[name].read() for name in piece.names))
    sources = [tensors[name] for name in piece.names]
    where = f"{sources[0].file.path}: {escaped(', '.join(tensor.name for tensor in sources))}"
    for path, array in zip(piece.paths, arrays, strict=True):
        writer.write(path, _cast_finite(array, leaves[path][1], where), piece.indices)


def _cast_finite(array: np.ndarray, dtype: np.dtype, where: str) -> np.ndarray:
    """Casts an array. Raises UserError if it has values that are not finite, or that are outside the range of `dtype` or of
    float32, in which models are loaded. where: the file and its tensors, for messages."""
    if not is_all_finite(array):
        raise UserError(f"{where}: has values that are not finite; give a checkpoint of a training that did not diverge")
    if not is_all_finite(array, FLOATS["float32"]):
        raise UserError(f"{where}: has values outside the range of float32; give a checkpoint with smaller values")
    try:
        return cast_without_overflow(array, dtype, where)
    except OverflowError:
        raise UserError(f"{where}: has values outside the range of {dtype}; use --dtype float32") from None
