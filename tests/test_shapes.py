"""Signatures and structs say the shapes of arrays, and tests check them (tests/shapes.py)."""

import dataclasses
import importlib
import inspect
import pkgutil
import typing

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import AbstractArray, Float, TypeCheckError, jaxtyped
from shapes import MODULES, checked

from hyperseg_jax.layers.conv import Conv
from hyperseg_jax.losses.masks import bce_cost
from hyperseg_jax.structs import Prompt, Source, TokenStream


def modules():
    """Every file that is checked."""
    for name in MODULES:
        found = importlib.import_module(name)
        yield found
        for inside in pkgutil.iter_modules(getattr(found, "__path__", ()), f"{name}."):
            yield importlib.import_module(inside.name)


def own_classes():
    for module in modules():
        yield from (cls for _, cls in inspect.getmembers(module, inspect.isclass) if cls.__module__ == module.__name__)


def is_public(name):
    return name == "__call__" or not name.startswith("_")


def public_functions():
    """Functions of a module, and methods and properties of its classes."""
    for module in modules():
        for name, value in vars(module).items():
            if inspect.isfunction(value) and value.__module__ == module.__name__ and is_public(name):
                yield value
    for cls in own_classes():
        for name, value in vars(cls).items():
            value = getattr(value, "fget", getattr(value, "__func__", value))
            if is_public(name) and inspect.isfunction(value) and inspect.unwrap(value).__module__ == cls.__module__:
                yield value


def types_in(hint):
    """A type and those inside it: of unions, tuples, dicts, callables."""
    if isinstance(hint, list | tuple):
        return {found for one in hint for found in types_in(one)}
    return {hint, *types_in(typing.get_args(hint))} if typing.get_args(hint) else {hint}


def hints_of(function):
    return typing.get_type_hints(inspect.unwrap(function), include_extras=True)


def is_shaped(kind):
    return inspect.isclass(kind) and issubclass(kind, AbstractArray)


def test_no_public_signature_has_an_array_without_a_shape():
    plain, shaped = [], 0
    for function in public_functions():
        hints = {name: types_in(hint) for name, hint in hints_of(function).items()}
        shaped += any(is_shaped(kind) for kinds in hints.values() for kind in kinds)
        where = f"{function.__module__}.{function.__qualname__}"
        plain += [f"{where}({name})" for name, kinds in hints.items() if kinds & {jax.Array, np.ndarray}]
    assert shaped > 60 and not plain


def test_every_argument_of_a_module_has_a_type():
    bare, calls = [], 0
    for cls in own_classes():
        if issubclass(cls, nn.Module) and "__call__" in vars(cls):
            function = inspect.unwrap(cls.__call__)
            names = set(inspect.signature(function).parameters) - {"self"} | {"return"}
            bare += [f"{cls.__module__}.{cls.__name__}({name})" for name in names - set(hints_of(function))]
            calls += 1
    assert calls > 25 and not bare


def test_every_struct_says_the_shapes_of_its_arrays():
    structs = [cls for cls in own_classes() if hasattr(cls, "_flax_dataclass") or cls.__module__.endswith(".structs")]
    structs = [cls for cls in structs if dataclasses.is_dataclass(cls)]
    fields = {f"{cls.__name__}.{name}": types_in(hint) for cls in structs for name, hint in hints_of_class(cls).items()}
    assert sum(any(map(is_shaped, kinds)) for kinds in fields.values()) > 45
    assert not [name for name, kinds in fields.items() if kinds & {jax.Array, np.ndarray}]


def hints_of_class(cls):
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


@pytest.mark.parametrize("shape, dtype", [((2, 8, 3), "float32"), ((2, 8, 8, 3), "int32")], ids=["rank", "dtype"])
def test_a_wrong_call_of_a_module_raises(shape, dtype):
    init = lambda x: Conv(4, 3).init(jax.random.key(0), x)
    jax.eval_shape(init, jnp.zeros((2, 8, 8, 3)))
    with pytest.raises(TypeCheckError, match="parameter 'x'"):
        jax.eval_shape(init, jnp.zeros(shape, dtype))


def test_dimensions_of_one_name_are_of_one_size():
    assert bce_cost(jnp.zeros((2, 5, 7)), jnp.zeros((2, 3, 7))).shape == (2, 5, 3)
    with pytest.raises(TypeCheckError, match="parameter 'targets'"):
        bce_cost(jnp.zeros((2, 5, 7)), jnp.zeros((2, 3, 6)))


def test_what_comes_back_is_checked():
    @jaxtyped(typechecker=checked)
    def first(x: Float[jax.Array, "B L"]) -> Float[jax.Array, " L"]:
        return x[:, 0]

    assert first(jnp.zeros((3, 3))).shape == (3,)
    with pytest.raises(TypeCheckError, match="return value"):
        first(jnp.zeros((2, 3)))


def stream(**changed):
    row = np.zeros((2, 5), np.int32)
    given = {"embeddings": np.zeros((2, 5, 3), np.float32), "positions": row, "mask": row > 0, "source": row}
    return TokenStream(**given | changed)


def test_a_struct_of_arrays_that_do_not_fit_raises():
    for wrong in ({"mask": np.zeros((2, 4), bool)}, {"mask": np.zeros((2, 5), np.int32)}, {"source": np.zeros(5, np.int32)}):
        with pytest.raises(TypeCheckError, match=r"TokenStream\.__init__"):
            stream(**wrong)
    with pytest.raises(TypeCheckError):
        jax.jit(lambda x: stream(mask=x))(np.zeros((2, 4), bool))
    with pytest.raises(TypeCheckError):
        Prompt("panoptic", masks=np.zeros((1, 8, 8), bool))


def test_a_struct_of_other_things_is_not_checked():
    """Of shapes, of numbers, of what tree.map makes."""
    made = stream()
    assert jax.tree.map(lambda leaf: leaf.ndim, made).mask == 2
    assert jax.eval_shape(lambda: stream()).mask.shape == (2, 5)
    assert jax.tree.map(lambda leaf: None, made).mask is None
    assert stream(source=int(Source.TEXT)).source == Source.TEXT
