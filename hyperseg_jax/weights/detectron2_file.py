"""Reader of detectron2's .pkl: a pickled {"model": {name: NumPy array}, "__author__": ..., "matching_heuristics": ...}."""

from __future__ import annotations

import pathlib

from hyperseg_jax.untrusted.bad_file import BadFile, map_file, naming_path
from hyperseg_jax.untrusted.pickle_machine import PLAIN_NAMES, PickleMachine
from hyperseg_jax.weights.mapped_file import MappedTensors
from hyperseg_jax.weights.pickled_arrays import ARRAY_NAMES, PickledArray, require_stored_array
from hyperseg_jax.weights.state_dict import find_tensors


def open_detectron2(path: pathlib.Path) -> MappedTensors:
    """Opens one file; its arrays are in file order. Raises UserError if it is invalid."""
    with naming_path(path):
        data = map_file(path)
        machine = PickleMachine(data, {**PLAIN_NAMES, **ARRAY_NAMES})
        root = machine.run()
        if machine.at != len(data):
            raise BadFile(f"has {len(data) - machine.at} bytes after its pickle")
        arrays, ignored = find_tensors(root, lambda value: type(value) is PickledArray)
        return MappedTensors(path, {name: require_stored_array(array) for name, array in arrays.items()}, ignored)
