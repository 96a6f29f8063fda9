"""Plans: small ones for virtual devices, real ones for TPU slices (slow, with the `tpu` extra)."""

import importlib.util
import pathlib
import sys

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding

from hyperseg_jax import axes
from hyperseg_jax import config as configs
from hyperseg_jax.data import sources
from hyperseg_jax.errors import UserError
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.layers.token_tables import Embedding, gather_table
from hyperseg_jax.llms.head import head_logits
from hyperseg_jax.losses.text import text_cross_entropy_in_chunks
from hyperseg_jax.parallel import placement
from hyperseg_jax.parallel.feed import Feed
from hyperseg_jax.planning import compile as planning
from hyperseg_jax.planning import program, topologies
from hyperseg_jax.structs import Example, Prompt
from hyperseg_jax.systems import system as systems
from hyperseg_jax.text.tokenizer import Tokenizer

MICRO = pathlib.Path(__file__).parents[1] / "micro_config.py"


def make_micro_config(**train):
    config = configs.load(str(MICRO))
    config.train.update({"preset": "data", "batch_size": 8, **train})
    return config


@pytest.fixture
def fast_compilation():
    """Compiles for virtual devices without optimization; nothing is executed."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def test_plan_of_the_micro_model(fast_compilation):
    config = make_micro_config(batch_size=16)
    config.optimizer.accumulate = 2
    result = planning.compile_step(config, "referring", jax.devices()[:8])
    assert (result.preset, result.mesh, result.examples) == ("data", {"data": 8}, 2)
    assert result.memory.needed >= result.memory.temporaries > 0
    assert result.memory.aliased > 0.9 * result.memory.outputs  # the state is donated
    assert set(result.collectives) == {"all-reduce"}  # slices take elements from each device locally
    assert result.matching_loops >= 2 and not result.loop_collectives


def test_batch_shapes_equal_those_of_arrays():
    system, config = systems.get("hyperseg"), configs.load("tiny")
    for task in config.data.tasks:
        processor = sources.make_processor(config, system, Tokenizer.toy(), task, prompts=2, drawn_on=1, masks=1)
        example = Example("one", np.zeros((processor.frames, 20, 30, 3), np.uint8), (Prompt("referring", text="a ring"),))
        result = processor(example, train=True)
        shapes = jax.tree.map(lambda x: ((3, *np.shape(x)), np.asarray(x).dtype), result)
        assert jax.tree.map(lambda x: (x.shape, x.dtype), processor.spec(3)) == shapes


def test_invalid_plans():
    with pytest.raises(UserError, match="--task vidoe: the config has no such task; use one of referring"):
        planning.compile_step(make_micro_config(), "vidoe", jax.devices()[:8])
    with pytest.raises(UserError, match=r"train.batch_size = 6: give a multiple of 8"):
        planning.compile_step(make_micro_config(batch_size=6), "referring", jax.devices()[:8])
    sliced = make_micro_config()
    sliced.optimizer.accumulate = 2
    with pytest.raises(UserError, match=r"= 8: give a multiple of 16; .* \(optimizer.accumulate = 2\) into 8 parts"):
        planning.compile_step(sliced, "referring", jax.devices()[:8])
    mixed = make_micro_config()
    mixed.data.batches = "mixed"
    with pytest.raises(UserError, match="--task referring: the config has no such task; use one of mixed"):
        planning.compile_step(mixed, "referring", jax.devices()[:8])


def test_missing_libtpu_is_reported_with_the_fix(monkeypatch):
    monkeypatch.setitem(sys.modules, "libtpu", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--topology v5e:4x4: .* pip install 'hyperseg-jax\[tpu\]'"):
        topologies.slice_devices("v5e:4x4")


# (config, slice, task, GiB of a chip). The compiler rejects models that do not fit. Needs the `tpu` extra; slow, 10 GB each.
REAL = [
    ("hyperseg_3b:v5e-16", "v5e:4x4", "referring", 15.75),
    ("hyperseg_3b_full:v5p-128", "v5p:4x4x4", "referring", 95.0),
]
# (config, slice, task with the largest program).
SMALLER = [
    ("sca_gpt2_large", "v5e:4x4", "caption"),
    ("sca_llama_3b", "v5e:4x4", "caption"),
    ("seem_samvitb", "v5e:4x4", "panoptic"),
    ("seem_davitd3", "v5e:4x4", "panoptic"),
    ("seem_focalt", "v5e:4x4", "panoptic"),
    ("seem_focall", "v5e:4x4", "panoptic"),
    ("ifseg_base", "v5e:2x2", "words"),
    ("ifseg_base:coco_stuff", "v5e:2x2", "words"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "topology", "task", "room"), REAL, ids=[name for name, *_ in REAL])
def test_hyperseg_3b_fits_its_slice(name, topology, task, room):
    result = planning.compile_step(configs.load(name), task, topologies.slice_devices(topology))
    assert not result.problem, result.problem
    assert result.examples >= 1
    assert result.memory.peak < room * 2**30
    assert result.matching_loops >= 2 and not result.loop_collectives
    assert result.collectives["all-reduce"] >= 1


@pytest.mark.slow
@pytest.mark.parametrize(("name", "topology", "task"), SMALLER, ids=[name for name, *_ in SMALLER])
def test_recipes_of_smaller_systems_fit_their_slice(name, topology, task):
    result = planning.compile_step(configs.load(name), task, topologies.slice_devices(topology))
    print(f"{result.memory.peak / 1e9:.2f} GB per chip, {result.examples} examples")
    assert not result.problem, result.problem
    assert result.examples >= 1 and not result.loop_collectives
    assert result.memory.peak < 15.75 * 2**30
    assert (result.matching_loops >= 2) == name.startswith("seem")


@pytest.mark.slow
def test_sharded_token_tables_are_gathered_in_bfloat16():
    precision = Precision(compute="bfloat16", matmul="default")
    module, placed = Embedding(512, 256, precision), placement.make("lora", devices=topologies.slice_devices("v5e:4x4"))

    def loss(table, kernel, ids):
        head = lambda kernel, hidden: head_logits(hidden, kernel, precision)
        hidden = module.apply({"params": {"embedding": table}}, ids)
        return text_cross_entropy_in_chunks(head, gather_table(kernel, precision), hidden, ids)

    sharding = lambda *names: NamedSharding(placed.mesh, axes.to_mesh_axes(names, placed.rules))
    table = jax.ShapeDtypeStruct((512, 256), np.float32, sharding=sharding("vocab", "embed"))
    kernel = jax.ShapeDtypeStruct((256, 512), np.float32, sharding=sharding("embed", "vocab"))
    ids = jax.ShapeDtypeStruct((32, 128), np.int32, sharding=placed.batch)
    with placement.use(placed):
        step = jax.jit(
            jax.value_and_grad(loss, argnums=(0, 1)), out_shardings=(placed.replicated, (table.sharding, kernel.sharding))
        )
        found = program.parse_program(step.lower(table, kernel, ids).compile().as_text())
    gathers = [i.shape for body in found.computations.values() for i in body if i.collective == "all-gather"]
    tables = [shape.strip() for shape in gathers if "[512,256]" in shape or "[256,512]" in shape]
    assert len(tables) == 2 and all(shape.startswith("bf16") for shape in tables), gathers


@pytest.mark.slow
@pytest.mark.parametrize(("remat", "forward_runs"), [("marked", 1), ("full", 2)])
def test_the_language_model_attends_by_a_kernel(remat, forward_runs):
    """The kernel's outputs are saved for the backward pass, or computed twice."""
    config = make_micro_config(preset="auto", batch_size=16)
    config.unlock()
    config.model.precision.compute = "bfloat16"
    config.model.llm.update({"hidden_size": 128, "num_layers": 2, "rotary_fraction": 0.5, "remat": remat})
    config.data.tasks.referring.length = 512
    result = planning.compile_step(config, "referring", topologies.slice_devices("v5e:4x4"))
    assert result.cost.kernels == 2 * (forward_runs + 2)  # layers; gradients of queries, and of keys and values


@pytest.mark.slow
def test_models_that_do_not_fit_and_unknown_slices():
    with pytest.raises(UserError, match="--topology v5e:3x7: not known to libtpu"):
        topologies.slice_devices("v5e:3x7")
    config = configs.load("hyperseg_3b", ["train.batch_size=160"])
    result = planning.compile_step(config, "referring", topologies.slice_devices("v5e:4x4"))
    assert "RESOURCE_EXHAUSTED" in result.problem and result.memory is None


@pytest.mark.slow
def test_the_command_reports_a_slice(capsys):
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
    output = capsys.readouterr().out
    assert "preset data_fsdp: data 1 x fsdp 16" in output and "referring collectives:" in output and "yes" in output
    with pytest.raises(SystemExit):
        main(["plan", "--config", str(MICRO), "--topology", "v5e:4x4", "--task", "refering"])


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5e:4x4", "v5e:8x8", "v5e:16x16", "v5p:4x4x8", "v6e:4x4", "tpu7x:2x2x2", "tpu7x:4x4x8"])
@pytest.mark.parametrize("adapters", [True, False])
def test_rows_of_every_host_of_a_slice(topology, adapters, monkeypatch):
    """Chips are numbered along the links of a slice, so the rows of a host need not be contiguous."""
    devices = topologies.slice_devices(topology)
    feed = Feed(placement.make("auto", devices=devices, adapters=adapters).batch)
    fed = []
    for process in {device.process_index for device in devices}:
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        rows = feed.rows(2 * len(devices))
        assert len(rows.indices) == 2 * (8 if topology.startswith("tpu7x") else 4)  # devices per host
        fed += [row for row, scored in zip(rows.indices, rows.scored, strict=True) if scored]
    assert sorted(fed) == list(range(2 * len(devices)))


@pytest.mark.slow
def test_copies_of_the_parameters_stay_inside_a_slice():
    from jax.experimental import topologies as described

    topologies.slice_devices("v5e:4x4")  # sets libtpu's environment variables
    devices = described.get_topology_desc(platform="tpu", topology_name="v5e:4x4", num_slices=2).devices
    placed = placement.make("auto", devices=devices)
    assert placed.preset == "multi_slice" and dict(placed.mesh.shape) == {"data": 2, "fsdp": 16}
    assert [{device.slice_index for device in copy} for copy in placed.mesh.devices] == [{0}, {1}]
