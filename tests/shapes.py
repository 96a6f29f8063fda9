"""The types of arrays, checked while tests run: of every call of a model's parts, and of structs when they are built."""

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
CONF = beartype.BeartypeConf(is_pep484_tower=True)  # a whole number stands for a float


def install() -> None:
    """Checks what these modules define; they must not be imported yet."""
    assert not [name for name in sys.modules if name.startswith(MODULES)]
    jaxtyping.install_import_hook(MODULES, "shapes.checked")


def checked(function):
    """The function with arguments checked; the hook calls this for every function and for the __init__ of every dataclass."""
    check = beartype.beartype(conf=CONF)(function)
    if function.__name__ != "__init__":
        return check

    def init(self, *given, **named):
        fields = {field.name: field for field in dataclasses.fields(self)}
        values = {**dict(zip(fields, given, strict=False)), **named}
        if not stands_in(type(self), [(fields[name], value) for name, value in values.items() if name in fields]):
            check(self, *given, **named)

    return init


def stands_in(struct, values):
    """Whether a struct is built of something else than its arrays, as JAX does: of shapes, of shardings, of None. And a prompt
    of a build's record has numbers of planes where its masks will be. What a careless reader gives for regions is looked
    at by datasets/record_errors, and numbers of a region by the region."""
    if struct.__name__ == "Region":
        return True
    if struct.__name__ == "Prompt":
        given = {field.name: value for field, value in values}
        planes = isinstance(given.get("masks"), np.ndarray) and given["masks"].dtype.kind == "i" and given["masks"].ndim == 2
        regions = given.get("regions", ())
        return planes or type(regions) is not tuple or any(type(region).__name__ != "Region" for region in regions)
    if not hasattr(struct, "_flax_dataclass"):
        return False
    leaves = []
    for field, value in values:
        if field.metadata.get("pytree_node", True):
            unwanted = lambda leaf, kind=str(field.type): leaf is None and "None" not in kind
            leaves += jax.tree.leaves(value, is_leaf=unwanted)
    return not all(isinstance(leaf, jax.Array | np.ndarray) and leaf.dtype != jax.dtypes.float0 for leaf in leaves)
