"""The types of arrays, checked while tests run: of every call of a model's parts, and of structs when they are built."""

import dataclasses
import sys

import beartype
import jax
import jaxtyping
import numpy as np

ROOMS = ("connectors", "decoders", "encoders", "layers", "llms", "losses")
MODULES = tuple(f"hyperseg_jax.{name}" for name in (*ROOMS, "structs", "results.mask_resize", "systems.hyperseg.model"))


def install() -> None:
    """Checks what these modules define; they must not be imported yet."""
    assert not [name for name in sys.modules if name.startswith(MODULES)]
    jaxtyping.install_import_hook(MODULES, "shapes.checked")


def checked(function):
    """The function with arguments checked; the hook calls this for every function and for the __init__ of every dataclass.

    JAX builds structs of anything: of shapes, of shardings, of None. A struct is checked once its leaves are all arrays.
    """
    check = beartype.beartype(function)
    if function.__name__ != "__init__":
        return check

    def init(self, *fields, **named):
        if not hasattr(type(self), "_flax_dataclass") or holds_arrays(type(self), fields, named):
            check(self, *fields, **named)

    return init


def holds_arrays(struct, fields, named):
    """Whether all that JAX sees of a struct are arrays, or tracers of arrays."""
    every = dataclasses.fields(struct)
    given = {**dict(zip((field.name for field in every), fields, strict=False)), **named}
    leaves = jax.tree.leaves([given.get(field.name) for field in every if field.metadata.get("pytree_node", True)])
    return all(isinstance(leaf, jax.Array | np.ndarray) and leaf.dtype != jax.dtypes.float0 for leaf in leaves)
