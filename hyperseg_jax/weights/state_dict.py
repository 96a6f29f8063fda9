"""Finds the mapping of names to tensors (the state dict) within a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hyperseg_jax.untrusted.bad_file import CONVERT, BadFile
from hyperseg_jax.untrusted.printing import escaped

KNOWN = ("model", "state_dict", "module")


def find_tensors(root: Any, is_tensor: Callable[[Any], bool]) -> tuple[dict[str, Any], list[str]]:
    """Returns ({name: tensor}, names of the other entries) of a checkpoint.

    The state dict is the mapping under `model`, `state_dict` or `module`; otherwise the top level, if it contains tensors;
    otherwise the only nested mapping that contains tensors. Raises BadFile if it is ambiguous, or if there are tensors outside
    of it.
    """
    if type(root) is not dict:
        raise BadFile(f"contains a {type(root).__name__}, not a mapping of names to tensors", CONVERT)
    inner = {key: value for key, value in root.items() if type(value) is dict and _contains_tensors(value, is_tensor)}
    chosen = [key for key in inner if key in KNOWN]
    if not chosen and not any(map(is_tensor, root.values())):
        chosen = list(inner)
    if len(chosen) > 1:
        raise BadFile(f"contains several models ({', '.join(escaped(str(key)) for key in chosen[:10])})", CONVERT)
    mapping = inner[chosen[0]] if chosen else root
    ignored = [key for key in root if [key] != chosen] if chosen else []
    tensors = {}
    for key, value in mapping.items():
        if is_tensor(value):
            if type(key) is not str:
                raise BadFile(f"has a tensor with the name {escaped(str(key))}, which is not a string", CONVERT)
            tensors[key] = value
        elif _contains_tensors(value, is_tensor):
            raise BadFile(f"contains tensors in {escaped(str(key))}, outside of the state dict of the model", CONVERT)
        else:
            ignored.append(key)
    if not tensors:
        raise BadFile("contains no tensors", "give a weight file")
    return tensors, [escaped(str(key)) for key in ignored]


def _contains_tensors(value: Any, is_tensor: Callable[[Any], bool]) -> bool:
    """Whether a container directly contains tensors."""
    members = value.values() if type(value) is dict else value if type(value) in (list, tuple) else ()
    return any(map(is_tensor, members))
