"""Every preset gives the results of one device, with parameters and activations that are actually sharded."""

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
# each compiles a program: the default run tests two, the slow tests the others
FAST = ("data", "fsdp_tensor")
WITH_LOOPS = ("data", "data_fsdp", "fsdp_tensor")
NAMES = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in presets.PRESETS]
COLLECTIVE = r"\b(all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("


def make_full_sharding(name):
    """Returns the preset on eight devices, with small parameters sharded as well."""
    result = placement.make(name, SIZES.get(name))
    return placement.Placement(result.preset, result.mesh, result.rules, min_size=0)


def lower(case, placed):
    where = placement.parameter_shardings(case.boxed, placed)
    arguments = jax.device_put(case.params, where), jax.device_put(case.batch, placed.batch), case.key
    with placement.use(placed):
        outputs = ((placed.replicated, placed.replicated), where)
        return jax.jit(jax.value_and_grad(case.loss, has_aux=True), out_shardings=outputs).lower(*arguments), arguments


def test_attention_mask_logits_have_a_margin(case):
    """Attention masks are hard decisions; with this margin, rounding cannot flip a bit."""
    assert case.margin > 5e-5  # rounding errors are below 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_presets_give_the_results_of_one_device(case, name):
    """One program per preset: losses, gradients, shardings and collectives."""
    lowered, arguments = lower(case, make_full_sharding(name))
    step = lowered.compile()
    check_numbers(case, *jax.device_get(step(*arguments)))
    if name not in ("single", "data", "large_image"):
        check_split(name, *arguments[:2])
    text = step.as_text()
    if name == "data":
        # Losses divide by counts of the full batch, so sums are exchanged; matching, sampling and splicing stay local.
        result = collections.Counter(re.findall(COLLECTIVE, text))
        assert set(result) == {"all-reduce"} and result["all-reduce"] < 12
    if name in WITH_LOOPS:
        loops = program.parse_program(text)
        assert len(loops.loops("matching")) >= 2 and not loops.collectives_in_loops("matching")


def check_numbers(case, outputs, gradient):
    total, metrics = outputs
    np.testing.assert_allclose(total, case.total, rtol=1e-5)
    for kind, value in flatten(case.metrics).items():
        np.testing.assert_allclose(metrics[kind], value, rtol=1e-5, atol=1e-6, err_msg=kind)
    gradient, expected = flatten(gradient), flatten(case.gradient)
    largest = max(np.abs(value).max() for value in expected.values())
    for path, value in expected.items():
        scale = max(np.abs(value).max(), 1e-3 * largest)  # the gradient of key biases is zero up to rounding
        assert np.abs(gradient[path] - value).max() <= 1e-5 * scale, path


def check_split(name, params, batch):
    split = [leaf for leaf in jax.tree.leaves(params) if not leaf.sharding.is_fully_replicated]
    assert len(split) >= (2 if name == "lora" else 60)
    rows = {shard.data.shape[0] for leaf in jax.tree.leaves(batch) for shard in leaf.addressable_shards}
    assert rows == {2 if name == "fsdp_tensor" else 1}


def test_every_constraint_is_lowered(case, monkeypatch):
    """A mesh entered incorrectly would silently drop them. (A set, since Linen traces the body of a scan twice.)"""
    requests = set()

    def record_constraint(x, *names):
        caller = sys._getframe(1)
        module = caller.f_locals.get("self")
        requests.add((getattr(module, "path", ()), caller.f_code.co_filename, caller.f_lineno, x.shape, names))
        return constrain(x, *names)

    constrain = axes.constrain
    monkeypatch.setattr(axes, "constrain", record_constraint)
    lowered = lambda: jax.jit(lambda *args: case.loss(*args)).lower(case.params, case.batch, case.key).as_text()
    with placement.use(make_full_sharding("data_fsdp")):
        text = lowered()
    ours = [line for line in text.splitlines() if "sdy.sharding_constraint" in line and "@empty_mesh" not in line]
    assert len(ours) == len(requests) > 15


def test_indivisible_batches_are_refused(case):
    with placement.use(placement.make("data")), pytest.raises(ValueError, match="a batch of 6 rows"):
        jax.jit(lambda x: axes.constrain(x, "batch", "length")).lower(np.zeros((6, 4)))


@pytest.mark.parametrize(
    ("name", "sizes", "told"),
    [
        ("fsdp2", {}, "use auto or one of single, data"),
        ("data_fsdp", {"fsdp": 3}, "does not match 8 devices"),
        ("data", {"fsdp": 2}, "train.mesh.fsdp: preset data has only data"),
    ],
)
def test_wrong_meshes_are_named(name, sizes, told):
    with pytest.raises(UserError, match=told):
        placement.make(name, sizes)


def test_presets_with_unknown_axes_are_refused():
    with pytest.raises(ValueError, match=r"unknown mesh axes \['fdsp'\]; use some of data, fsdp"):
        presets.Preset({"data": 1}, (("embed", ("fdsp",)),))
    with pytest.raises(ValueError, match=r"unknown logical axis \['embedd'\]"):
        presets.Preset({"data": 1}, (("embedd", ("data",)),))


@pytest.mark.parametrize("kind", sorted(set(presets.GENERATIONS)))
@pytest.mark.parametrize("adapters", [True, False])
@pytest.mark.parametrize("devices", [4, 16, 64, 256])
def test_default_presets_fit_every_slice(kind, adapters, devices):
    name, sizes = presets.choose_preset("auto", kind, devices, 1, adapters)
    shape = placement.mesh_shape(name, sizes, devices)
    assert shape.get("fsdp", 1) <= 32
    assert (name == "lora") == adapters
    several, sizes = presets.choose_preset("auto", kind, devices, 2, False)
    assert several == "multi_slice" and placement.mesh_shape(several, sizes, devices)["data"] % 2 == 0
