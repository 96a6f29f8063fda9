"""Signatures and structs declare array shapes, which tests check (tests/shapes.py)."""

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


def checked_modules():
    """Returns every checked module."""
    for name in MODULES:
        result = importlib.import_module(name)
        yield result
        for inside in pkgutil.iter_modules(getattr(result, "__path__", ()), f"{name}."):
            yield importlib.import_module(inside.name)


def list_classes():
    for module in checked_modules():
        yield from (cls for _, cls in inspect.getmembers(module, inspect.isclass) if cls.__module__ == module.__name__)


def is_public(name):
    return name == "__call__" or not name.startswith("_")


def public_functions():
    """Yields functions of a module, and methods and properties of its classes."""
    for module in checked_modules():
        for name, value in vars(module).items():
            if inspect.isfunction(value) and value.__module__ == module.__name__ and is_public(name):
                yield value
    for cls in list_classes():
        for name, value in vars(cls).items():
            value = getattr(value, "fget", getattr(value, "__func__", value))
            if is_public(name) and inspect.isfunction(value) and inspect.unwrap(value).__module__ == cls.__module__:
                yield value


def inner_types(hint):
    """Returns a type and its inner types, of unions, tuples, dicts and callables."""
    if isinstance(hint, list | tuple):
        return {result for one in hint for result in inner_types(one)}
    return {hint, *inner_types(typing.get_args(hint))} if typing.get_args(hint) else {hint}


def get_hints(function):
    return typing.get_type_hints(inspect.unwrap(function), include_extras=True)


def is_shaped(kind):
    return inspect.isclass(kind) and issubclass(kind, AbstractArray)


def test_public_signatures_have_array_shapes():
    plain, shaped = [], 0
    for function in public_functions():
        hints = {name: inner_types(hint) for name, hint in get_hints(function).items()}
        shaped += any(is_shaped(kind) for kinds in hints.values() for kind in kinds)
        where = f"{function.__module__}.{function.__qualname__}"
        plain += [f"{where}({name})" for name, kinds in hints.items() if kinds & {jax.Array, np.ndarray}]
    assert shaped > 60 and not plain


def test_every_argument_of_a_module_has_a_type():
    bare, calls = [], 0
    for cls in list_classes():
        if issubclass(cls, nn.Module) and "__call__" in vars(cls):
            function = inspect.unwrap(cls.__call__)
            names = set(inspect.signature(function).parameters) - {"self"} | {"return"}
            bare += [f"{cls.__module__}.{cls.__name__}({name})" for name in names - set(get_hints(function))]
            calls += 1
    assert calls > 25 and not bare


def test_every_struct_has_array_shapes():
    structs = [cls for cls in list_classes() if hasattr(cls, "_flax_dataclass") or cls.__module__.endswith(".structs")]
    structs = [cls for cls in structs if dataclasses.is_dataclass(cls)]
    fields = {f"{cls.__name__}.{name}": inner_types(hint) for cls in structs for name, hint in get_class_hints(cls).items()}
    assert sum(any(map(is_shaped, kinds)) for kinds in fields.values()) > 45
    assert not [name for name, kinds in fields.items() if kinds & {jax.Array, np.ndarray}]


def get_class_hints(cls):
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


@pytest.mark.parametrize("shape, dtype", [((2, 8, 3), "float32"), ((2, 8, 8, 3), "int32")], ids=["rank", "dtype"])
def test_a_wrong_call_of_a_module_raises(shape, dtype):
    init = lambda x: Conv(4, 3).init(jax.random.key(0), x)
    jax.eval_shape(init, jnp.zeros((2, 8, 8, 3)))
    with pytest.raises(TypeCheckError, match="parameter 'x'"):
        jax.eval_shape(init, jnp.zeros(shape, dtype))


def test_dimensions_of_one_name_have_one_size():
    assert bce_cost(jnp.zeros((2, 5, 7)), jnp.zeros((2, 3, 7))).shape == (2, 5, 3)
    with pytest.raises(TypeCheckError, match="parameter 'targets'"):
        bce_cost(jnp.zeros((2, 5, 7)), jnp.zeros((2, 3, 6)))


def test_return_values_are_checked():
    @jaxtyped(typechecker=checked)
    def first_row(x: Float[jax.Array, "B L"]) -> Float[jax.Array, " L"]:
        return x[:, 0]

    assert first_row(jnp.zeros((3, 3))).shape == (3,)
    with pytest.raises(TypeCheckError, match="return value"):
        first_row(jnp.zeros((2, 3)))


def make_stream(**changed):
    row = np.zeros((2, 5), np.int32)
    kwargs = {"embeddings": np.zeros((2, 5, 3), np.float32), "positions": row, "mask": row > 0, "source": row}
    return TokenStream(**kwargs | changed)


def test_structs_with_inconsistent_shapes_raise():
    for wrong in ({"mask": np.zeros((2, 4), bool)}, {"mask": np.zeros((2, 5), np.int32)}, {"source": np.zeros(5, np.int32)}):
        with pytest.raises(TypeCheckError, match=r"TokenStream\.__init__"):
            make_stream(**wrong)
    with pytest.raises(TypeCheckError):
        jax.jit(lambda x: make_stream(mask=x))(np.zeros((2, 4), bool))
    with pytest.raises(TypeCheckError):
        Prompt("panoptic", masks=np.zeros((1, 8, 8), bool))


def test_structs_without_arrays_are_not_checked():
    """Structs of shapes, of numbers and of tree.map results."""
    result = make_stream()
    assert jax.tree.map(lambda leaf: leaf.ndim, result).mask == 2
    assert jax.eval_shape(lambda: make_stream()).mask.shape == (2, 5)
    assert jax.tree.map(lambda leaf: None, result).mask is None
    assert make_stream(source=int(Source.TEXT)).source == Source.TEXT
