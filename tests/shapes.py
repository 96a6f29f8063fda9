"""Checks array types at test time: for every call of a model's parts, and for structs when they are created."""

import dataclasses
import sys

import beartype
import jax
import jaxtyping
import numpy as np

ROOMS = ("connectors", "decoders", "encoders", "layers", "llms", "losses", "ops")
FILES = ("structs", "results.mask_resize", "results.selection")
SYSTEMS = ("systems.hyperseg.model", "systems.hyperseg.objective")
MODULES = tuple(f"hyperseg_jax.{name}" for name in (*ROOMS, *FILES, *SYSTEMS))
CONF = beartype.BeartypeConf(is_pep484_tower=True)  # integers are accepted as floats


def install() -> None:
    """Installs the checks for MODULES, which must not be imported yet."""
    assert not [name for name in sys.modules if name.startswith(MODULES)]
    jaxtyping.install_import_hook(MODULES, "shapes.checked")


def checked(function):
    """Returns the function with checked arguments; the hook applies it to every function and dataclass __init__."""
    check = beartype.beartype(conf=CONF)(function)
    if function.__name__ != "__init__":
        return check

    def init(self, *args, **kwargs):
        fields = {field.name: field for field in dataclasses.fields(self)}
        values = {**dict(zip(fields, args, strict=False)), **kwargs}
        if not has_placeholders(type(self), [(fields[name], value) for name, value in values.items() if name in fields]):
            check(self, *args, **kwargs)

    return init


def has_placeholders(struct, values):
    """Returns whether a struct holds placeholders instead of arrays, as JAX creates: shapes, shardings or None. A prompt of a
    build's record has plane indices instead of masks. Invalid regions of readers are checked by datasets/record_errors, and
    values of a region by the region."""
    if struct.__name__ == "Region":
        return True
    if struct.__name__ == "Prompt":
        inputs = {field.name: value for field, value in values}
        has_plane_indices = (
            isinstance(inputs.get("masks"), np.ndarray) and inputs["masks"].dtype.kind == "i" and inputs["masks"].ndim == 2
        )
        regions = inputs.get("regions", ())
        return has_plane_indices or type(regions) is not tuple or any(type(region).__name__ != "Region" for region in regions)
    if not hasattr(struct, "_flax_dataclass"):
        return False
    leaves = []
    for field, value in values:
        if field.metadata.get("pytree_node", True):
            is_unexpected_none = lambda leaf, kind=str(field.type): leaf is None and "None" not in kind
            leaves += jax.tree.leaves(value, is_leaf=is_unexpected_none)
    return not all(isinstance(leaf, jax.Array | np.ndarray) and leaf.dtype != jax.dtypes.float0 for leaf in leaves)
