"""Plans: small ones for the virtual devices, the real ones for TPU slices (slow, with the `tpu` extra)."""

import importlib.util
import pathlib
import sys

import jax
import numpy as np
import pytest

from hyperseg_jax import config as configs
from hyperseg_jax.data import sources
from hyperseg_jax.errors import UserError
from hyperseg_jax.parallel import placement
from hyperseg_jax.parallel.feed import Feed
from hyperseg_jax.planning import compile as planning
from hyperseg_jax.planning import topologies
from hyperseg_jax.structs import Example, Prompt
from hyperseg_jax.systems import system as systems
from hyperseg_jax.text.tokenizer import Tokenizer

MICRO = pathlib.Path(__file__).parents[1] / "micro_config.py"


def micro(**train):
    config = configs.load(str(MICRO))
    config.train.update({"preset": "data", "batch_size": 8, **train})
    return config


@pytest.fixture
def quickly():
    """Compiles for the virtual devices without optimising; nothing of it is run."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def test_a_plan_of_the_micro_model(quickly):
    config = micro(batch_size=16)
    config.optimizer.accumulate = 2
    found = planning.plan(config, "referring", jax.devices()[:8])
    assert (found.preset, found.mesh, found.examples) == ("data", {"data": 8}, 2)
    assert found.memory.needed >= found.memory.temporaries > 0
    assert found.memory.aliased > 0.9 * found.memory.outputs  # the state is given away
    assert set(found.collectives) == {"all-reduce"}  # a slice takes its elements from every device's own
    assert found.matching_loops >= 2 and not found.waiting


def test_the_shapes_of_a_batch_are_those_of_its_arrays():
    system, config = systems.get("hyperseg"), configs.load("tiny")
    for task in config.data.tasks:
        processor = sources.processor(config, system, Tokenizer.toy(), task, prompts=2, drawn_on=1)
        example = Example("one", np.zeros((processor.frames, 20, 30, 3), np.uint8), (Prompt("referring", text="a ring"),))
        made = processor(example, train=True)
        shapes = jax.tree.map(lambda x: ((3, *np.shape(x)), np.asarray(x).dtype), made)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), processor.spec(3)) == shapes


def test_what_cannot_be_planned():
    with pytest.raises(UserError, match="--task vidoe: the config has referring"):
        planning.plan(micro(), "vidoe", jax.devices()[:8])
    with pytest.raises(UserError, match=r"train.batch_size = 6: give a multiple of 8"):
        planning.plan(micro(batch_size=6), "referring", jax.devices()[:8])
    sliced = micro()
    sliced.optimizer.accumulate = 2
    with pytest.raises(UserError, match=r"= 8: give a multiple of 16; .* \(optimizer.accumulate = 2\) into 8 parts"):
        planning.plan(sliced, "referring", jax.devices()[:8])
    mixed = micro()
    mixed.data.batches = "mixed"
    with pytest.raises(UserError, match="--task referring: the config has mixed"):
        planning.plan(mixed, "referring", jax.devices()[:8])


def test_without_libtpu_the_fix_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "libtpu", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--topology v5e:4x4: .* pip install 'hyperseg-jax\[tpu\]'"):
        topologies.devices("v5e:4x4")


# (config, slice, task, GiB of a chip). The compiler refuses what does not fit. Needs the `tpu` extra; minutes and 10 GB each.
REAL = [
    ("hyperseg_3b:v5e-16", "v5e:4x4", "referring", 15.75),
    ("hyperseg_3b_full:v5p-128", "v5p:4x4x8", "referring", 95.0),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "topology", "task", "room"), REAL, ids=[name for name, *_ in REAL])
def test_hyperseg_3b_fits_its_slice(name, topology, task, room):
    found = planning.plan(configs.load(name), task, topologies.devices(topology))
    assert not found.problem, found.problem
    assert found.examples >= 1
    assert found.memory.peak < room * 2**30
    assert found.matching_loops >= 2 and not found.waiting
    assert found.collectives["all-reduce"] >= 1


@pytest.mark.slow
def test_what_does_not_fit_is_told_and_an_unknown_slice_is_refused():
    with pytest.raises(UserError, match="--topology v5e:3x7: not known to libtpu"):
        topologies.devices("v5e:3x7")
    config = configs.load("hyperseg_3b", ["train.batch_size=160"])
    found = planning.plan(config, "referring", topologies.devices("v5e:4x4"))
    assert "RESOURCE_EXHAUSTED" in found.problem and found.memory is None


@pytest.mark.slow
def test_the_command_tells_a_slice(capsys):
    from hyperseg_jax.commands.main import main

    main(
        [
            "plan",
            "--config",
            str(MICRO),
            "--topology",
            "v5e:4x4",
            "--task",
            "referring",
            "--config.train.batch_size=16",
            "--config.train.preset=auto",
        ]
    )
    said = capsys.readouterr().out
    assert "preset data_fsdp: data 1 x fsdp 16" in said and "referring collectives:" in said and "yes" in said
    with pytest.raises(SystemExit):
        main(["plan", "--config", str(MICRO), "--topology", "v5e:4x4", "--task", "refering"])


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5e:4x4", "v5e:8x8", "v5e:16x16", "v5p:4x4x8", "v6e:4x4"])
@pytest.mark.parametrize("adapters", [True, False])
def test_every_host_of_a_slice_feeds_its_rows(topology, adapters, monkeypatch):
    """Chips are numbered along the links of a slice, so the rows of a host need not be side by side."""
    devices = topologies.devices(topology)
    feed = Feed(placement.make("auto", devices=devices, adapters=adapters).batch)
    fed = []
    for process in {device.process_index for device in devices}:
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        rows = feed.rows(2 * len(devices))
        assert len(rows.indices) == 2 * 4  # chips of a host
        fed += [row for row, scored in zip(rows.indices, rows.scored, strict=True) if scored]
    assert sorted(fed) == list(range(2 * len(devices)))


@pytest.mark.slow
def test_copies_of_the_parameters_stay_inside_a_slice():
    from jax.experimental import topologies as described

    topologies.devices("v5e:4x4")  # sets what libtpu reads
    devices = described.get_topology_desc(platform="tpu", topology_name="v5e:4x4", num_slices=2).devices
    placed = placement.make("auto", devices=devices)
    assert placed.preset == "multi_slice" and dict(placed.mesh.shape) == {"data": 2, "fsdp": 16}
    assert [{device.slice_index for device in copy} for copy in placed.mesh.devices] == [{0}, {1}]
