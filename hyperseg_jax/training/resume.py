"""Compares the config of an existing run, or of a model, with that of the command that uses it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyperseg_jax import config as configs
from hyperseg_jax.systems import system as systems
from hyperseg_jax.tables import flatten

FREE_DATA_FIELDS = ("root", "workers", "tokenizer", "buckets", "length_buckets", "max_unreadable_share")
"""Fields of `data` that may change: where the files are, and how they are read and padded."""
FREE_TASK_FIELDS = ("val",)
NOT_COMPARED = ("param_groups", "accumulate")
"""Fields of `optimizer` that are fixed, and the number of micro-batches, which only changes memory and random draws."""
FREE_MODEL_FIELD = "remat"
"""Field of the parts of a model that only changes memory and time."""
TRAINING_MODEL_FIELDS = ("precision", "dropout", "drop_path", "query_std", "embedding_std")
"""Fields of a model, or blocks of them, that do not define its function: rounding, and what only changes training or its
initial weights."""
FLAG = "--accept-changes"


def state_changes(saved: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Describes the differing fields that the train state, or the meaning of a position in the data, depends on; "" if there
    are none. saved: config of the existing run, from an untrusted file. given: the new config.

    If the run is older than the block of published fields, it has the published values, and no other field of the block is
    compared. A prediction field that is newer than the run is not compared."""
    before, now = _state_fields(saved), _state_fields(given)
    published = {path: value for path, value in _published_values(given).items() if path in now}
    for block in {f"{path.rpartition('/')[0]}/" for path in published}:
        if not any(each.startswith(block) for each in before):
            now = {each: now[each] for each in now if each in published or not each.startswith(block)}
            before |= {path: value for path, value in published.items() if path.startswith(block)}
    optional = systems.get(given["system"]).prediction_fields
    now = {path: value for path, value in now.items() if path in before or path.rpartition("/")[2] not in optional}
    return configs.describe_differences(before, now)


def function_changes(saved: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Describes the differing fields of `model` that change what the weights compute; "" if there are none. saved: config of a
    model folder, from an untrusted file. given: the config that the model is run with.

    The system's prediction_fields are not compared. A published field that a config lacks has the published value. Any other
    field that one of them lacks is not compared: it has the default of its module, as the newer fields in a config of an
    earlier version."""
    system = systems.get(given["system"])
    ignored = {FREE_MODEL_FIELD, *TRAINING_MODEL_FIELDS, *system.prediction_fields}
    published = _published_values(given)
    fields = (flatten({name: config.get(name) for name in ("system", "model")}) for config in (saved, given))
    before, now = (published | each for each in fields)
    compared = {path for path in before.keys() & now.keys() if not ignored & set(path.split("/"))}
    return configs.describe_differences(*({path: each[path] for path in compared} for each in (before, now)))


def run_changes(saved: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Describes the differing fields that the order of the records, the losses or the updates depend on; "" if there are none.
    With such a change, a resumed run differs from an uninterrupted one."""
    before, now = _run_fields(saved), _run_fields(given)
    if not any(fields.get("data/curriculum/share") for fields in (before, now)):  # else the number of steps moves its end
        before.pop("train/steps", None), now.pop("train/steps", None)
    return configs.describe_differences(before, now)


def _published_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns {path: published value} of the published fields of the system of a config."""
    return {row.field.replace(".", "/"): row.values[0] for row in systems.get(config["system"]).published_fields}


def _block(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns a block of a config, {} if it is none."""
    block = config.get(name)
    return dict(block) if isinstance(block, Mapping) else {}


def _state_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    optimizer, train = _block(config, "optimizer"), _block(config, "train")
    fields = flatten(
        {
            **{name: config.get(name) for name in ("system", "model")},
            "optimizer": {"param_groups": optimizer.get("param_groups")},
            "train": {
                "batch_size": train.get("batch_size"),
                "average": bool(train.get("average")),
                "frozen_type": train.get("frozen_type") or "",
            },
        }
    )
    return {path: value for path, value in fields.items() if path.rpartition("/")[2] != FREE_MODEL_FIELD}


def _run_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    data, data_root = _block(config, "data"), _block(config, "data").get("root")
    data = {name: value for name, value in data.items() if name not in FREE_DATA_FIELDS}
    if data_root:  # the toy dataset is not used
        data.pop("toy", None)
    data["tasks"] = {
        task: {name: value for name, value in _block(_block(data, "tasks"), task).items() if name not in FREE_TASK_FIELDS}
        for task in _block(data, "tasks")
    }
    optimizer = {name: value for name, value in _block(config, "optimizer").items() if name not in NOT_COMPARED}
    return flatten(
        {
            **{name: config.get(name) for name in ("seed", "loss")},
            "data": data,
            "optimizer": optimizer,
            "train": {"steps": _block(config, "train").get("steps")},
        }
    )
