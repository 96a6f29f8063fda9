"""Which mapping of a checkpoint is the one of names to tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hyperseg_jax.untrusted.bad_file import CONVERT, BadFile
from hyperseg_jax.untrusted.printing import shown

KNOWN = ("model", "state_dict", "module")


def find_tensors(root: Any, is_tensor: Callable[[Any], bool]) -> tuple[dict[str, Any], list[str]]:
    """({name: tensor}, names of what else there is) of a checkpoint's value.

    The mapping is the one under `model`, `state_dict` or `module`; else the top level, if tensors stand there; else the only
    mapping one level down that holds tensors. Raises BadFile where this does not settle it, or where tensors would be lost.
    """
    if type(root) is not dict:
        raise BadFile(f"holds a {type(root).__name__}, not a mapping of names to tensors", CONVERT)
    inner = {key: value for key, value in root.items() if type(value) is dict and _holds(value, is_tensor)}
    chosen = [key for key in inner if key in KNOWN]
    if not chosen and not any(map(is_tensor, root.values())):
        chosen = list(inner)
    if len(chosen) > 1:
        raise BadFile(f"holds several models ({', '.join(shown(str(key)) for key in chosen[:10])})", CONVERT)
    mapping = inner[chosen[0]] if chosen else root
    ignored = [key for key in root if [key] != chosen] if chosen else []
    tensors = {}
    for key, value in mapping.items():
        if is_tensor(value):
            if type(key) is not str:
                raise BadFile(f"names a tensor {shown(str(key))}, which is no text", CONVERT)
            tensors[key] = value
        elif _holds(value, is_tensor):
            raise BadFile(f"holds tensors inside {shown(str(key))}, beside or below the model's own", CONVERT)
        else:
            ignored.append(key)
    if not tensors:
        raise BadFile("holds no tensors", "give a file of weights")
    return tensors, [shown(str(key)) for key in ignored]


def _holds(value: Any, is_tensor: Callable[[Any], bool]) -> bool:
    """Whether a container has tensors in it, directly."""
    members = value.values() if type(value) is dict else value if type(value) in (list, tuple) else ()
    return any(map(is_tensor, members))
