"""Every preset computes what one device computes, from parameters and activations that really are split."""

import collections
import re
import sys

import jax
import numpy as np
import pytest

from hyperseg_jax import axes
from hyperseg_jax.errors import UserError
from hyperseg_jax.parallel import placement, presets
from hyperseg_jax.planning import program
from hyperseg_jax.tables import flatten

SIZES = {"data_fsdp": {"fsdp": 4}, "large_image": {"space": 4}}
# each compiles a program; those of the default run stand for the others, which are among the slow tests
QUICK = ("data", "fsdp_tensor")
WITH_LOOPS = ("data", "data_fsdp", "fsdp_tensor")
NAMES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in presets.PRESETS]
COLLECTIVE = r"\b(all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("


def whole_tree_split(name):
    """The preset on eight devices, small parameters split as well."""
    made = placement.make(name, SIZES.get(name))
    return placement.Placement(made.preset, made.mesh, made.rules, min_size=0)


def lower(case, placed):
    where = placement.shardings(case.boxed, placed)
    arguments = jax.device_put(case.params, where), jax.device_put(case.batch, placed.batch), case.key
    with placement.use(placed):
        outputs = ((placed.replicated, placed.replicated), where)
        return jax.jit(jax.value_and_grad(case.loss, has_aux=True), out_shardings=outputs).lower(*arguments), arguments


def test_the_masks_of_the_case_keep_a_margin(case):
    """A bit of the decoder's attention mask is a hard decision; here rounding cannot flip one."""
    assert case.margin > 5e-5  # rounding comes to less than 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_computes_what_one_device_computes(case, name):
    """One program a preset: its losses and gradients, how its arrays are split, and what its devices exchange."""
    lowered, arguments = lower(case, whole_tree_split(name))
    step = lowered.compile()
    check_numbers(case, *jax.device_get(step(*arguments)))
    if name not in ("single", "data", "large_image"):
        check_split(name, *arguments[:2])
    text = step.as_text()
    if name == "data":
        # Losses divide by counts of the whole batch, so sums are exchanged; matching, sampling and splicing stay on a device.
        found = collections.Counter(re.findall(COLLECTIVE, text))
        assert set(found) == {"all-reduce"} and found["all-reduce"] < 12
    if name in WITH_LOOPS:
        loops = program.read(text)
        assert len(loops.loops("matching")) >= 2 and not loops.waiting("matching")


def check_numbers(case, outputs, gradient):
    total, metrics = outputs
    np.testing.assert_allclose(total, case.total, rtol=1e-5)
    for kind, value in case.metrics.items():
        np.testing.assert_allclose(metrics[kind], value, rtol=1e-5, err_msg=kind)
    gradient, wanted = flatten(gradient), flatten(case.gradient)
    largest = max(np.abs(value).max() for value in wanted.values())
    for path, value in wanted.items():
        scale = max(np.abs(value).max(), 1e-3 * largest)  # biases of keys have no gradient but rounding
        assert np.abs(gradient[path] - value).max() <= 1e-5 * scale, path


def check_split(name, params, batch):
    split = [leaf for leaf in jax.tree.leaves(params) if not leaf.sharding.is_fully_replicated]
    assert len(split) >= (2 if name == "lora" else 60)
    rows = {shard.data.shape[0] for leaf in jax.tree.leaves(batch) for shard in leaf.addressable_shards}
    assert rows == {2 if name == "fsdp_tensor" else 1}


def test_every_constraint_is_lowered(case, monkeypatch):
    """A mesh entered the wrong way would drop them without a word. (A set, since Linen traces the body of a scan twice.)"""
    asked = set()

    def recorded(x, *names):
        caller = sys._getframe(1)
        module = caller.f_locals.get("self")
        asked.add((getattr(module, "path", ()), caller.f_code.co_filename, caller.f_lineno, x.shape, names))
        return constrain(x, *names)

    constrain = axes.constrain
    monkeypatch.setattr(axes, "constrain", recorded)
    lowered = lambda: jax.jit(lambda *given: case.loss(*given)).lower(case.params, case.batch, case.key).as_text()
    with placement.use(whole_tree_split("data_fsdp")):
        text = lowered()
    ours = [line for line in text.splitlines() if "sdy.sharding_constraint" in line and "@empty_mesh" not in line]
    assert len(ours) == len(asked) > 15


def test_a_batch_that_cannot_be_split_is_refused(case):
    with placement.use(placement.make("data")), pytest.raises(ValueError, match="a batch of 6 rows"):
        jax.jit(lambda x: axes.constrain(x, "batch", "length")).lower(np.zeros((6, 4)))


@pytest.mark.parametrize(
    ("name", "sizes", "told"),
    [
        ("fsdp2", {}, "use auto or one of single, data"),
        ("data_fsdp", {"fsdp": 3}, "does not match 8 devices"),
        ("data", {"fsdp": 2}, "train.mesh.fsdp: preset data has the axes data"),
    ],
)
def test_wrong_meshes_are_named(name, sizes, told):
    with pytest.raises(UserError, match=told):
        placement.make(name, sizes)


def test_a_preset_of_unknown_axes_is_refused():
    with pytest.raises(ValueError, match=r"unknown mesh axes \['fdsp'\]; use some of data, fsdp"):
        presets.Preset({"data": 1}, (("embed", ("fdsp",)),))
    with pytest.raises(ValueError, match=r"unknown logical axis \['embedd'\]"):
        presets.Preset({"data": 1}, (("embedd", ("data",)),))


@pytest.mark.parametrize("kind", sorted(set(presets.GENERATIONS)))
@pytest.mark.parametrize("adapters", [True, False])
@pytest.mark.parametrize("devices", [4, 16, 64, 256])
def test_defaults_fit_every_slice(kind, adapters, devices):
    name, sizes = presets.choose("auto", kind, devices, 1, adapters)
    shape = placement.resolve(name, sizes, devices)
    assert shape.get("fsdp", 1) <= 32
    assert (name == "lora") == adapters
    several, sizes = presets.choose("auto", kind, devices, 2, False)
    assert several == "multi_slice" and placement.resolve(several, sizes, devices)["data"] % 2 == 0
