"""Frozen parameters are saved once, and a checkpoint is restored only with those that it was trained with."""

import io
import shutil

import chex
import fuzz
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_states import advance, make_state, replace_by_pipe, restore
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from rich.console import Console

from hyperseg_jax import config as configs
from hyperseg_jax.errors import UserError
from hyperseg_jax.parallel import placement
from hyperseg_jax.systems import system as systems
from hyperseg_jax.training import checkpoint_folder, loop, param_groups
from hyperseg_jax.training.checkpoint import Checkpoints, content_hash
from hyperseg_jax.training.checkpoint_folder import CheckpointFolder
from hyperseg_jax.training.initial_state import trace_initial_state


@pytest.fixture
def folder(tmp_path):
    """Checkpoints of the steps 1 and 2."""
    state = make_state()
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        for step in (1, 2):
            state = advance(state)
            assert checkpoints.save(state, {"global_next_index": step}, wait=True) == ""
    return tmp_path / "checkpoints"


def total_bytes(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_frozen_parameters_are_saved_once(tmp_path):
    noise = jax.random.normal(jax.random.key(0), (500, 500))  # does not compress
    state = make_state().replace(frozen={"frozen": {"kernel": noise}})
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        for step in (1, 2):
            state = advance(state)
            checkpoints.save(state, {"global_next_index": step}, wait=True)
    sizes = {path.name: total_bytes(path) for path in (tmp_path / "checkpoints").iterdir()}
    assert sizes["frozen"] > 900_000 and sizes["1"] < 200_000 and sizes["2"] < 200_000
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "checkpoints" / "frozen").rglob("*")}
    restored, _, messages = restore(tmp_path / "checkpoints", state)
    np.testing.assert_array_equal(restored.frozen["frozen"]["kernel"], noise)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:  # a resumed run does not write them again
        restored, _ = checkpoints.restore(state)
        checkpoints.save(advance(restored), {"global_next_index": 3}, wait=True)
    assert not messages and written == {path: path.stat().st_mtime_ns for path in written}


def test_a_run_without_frozen_parameters_has_no_folder_for_them(tmp_path):
    state = advance(make_state()).replace(frozen={})
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(state, {"global_next_index": 1}, wait=True)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]
    assert restore(tmp_path / "checkpoints", state)[0].frozen == {}


@pytest.mark.parametrize("format", [1, 2])
def test_checkpoints_of_earlier_formats_load(tmp_path, format):
    """The next save of a run of format 1, whose checkpoints contain the frozen parameters, writes those to their folder."""
    state = advance(make_state())
    train = {name: getattr(state, name) for name in ("optimizer", "average", "step", "skipped", "key")}
    params = {"trainable": state.trainable} | ({"frozen": state.frozen} if format == 1 else {})
    run = {"format": format, "global_next_index": 7, "frozen": content_hash(state.frozen)}
    with CheckpointFolder(tmp_path / "checkpoints", log=print, seconds=60) as folder:
        folder.save(1, {"params": params, "train": train, "run": run}, wait=True)
    if format == 2:
        with CheckpointFolder(tmp_path / "checkpoints" / "frozen", log=print, seconds=60) as folder:
            folder.save(0, {"params": state.frozen, "run": {"format": 2}}, wait=True)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        restored, run = checkpoints.restore(make_state())
        assert run["global_next_index"] == 7 and int(restored.step) == 1
        checkpoints.save(advance(restored), {"global_next_index": 8}, wait=True)
    restored, run, messages = restore(tmp_path / "checkpoints")
    assert run["global_next_index"] == 8 and not messages
    chex.assert_trees_all_equal(restored.frozen, state.frozen)


def test_other_frozen_parameters_are_refused(folder, tmp_path):
    other = make_state().replace(frozen={"frozen": {"kernel": jnp.full((3,), 8.0)}})
    with Checkpoints(tmp_path / "other") as checkpoints:
        checkpoints.save(advance(other), {"global_next_index": 1}, wait=True)
    shutil.rmtree(folder / "frozen")
    shutil.copytree(tmp_path / "other" / "frozen", folder / "frozen")
    with pytest.raises(UserError, match=r"step 2: the frozen parameters in .*frozen/0 are not those of this run; restore"):
        restore(folder)


@pytest.mark.parametrize("missing", ["frozen", "frozen/0"])
def test_missing_frozen_parameters_are_one_line_and_are_not_created(folder, missing):
    shutil.rmtree(folder / missing)
    with pytest.raises(
        UserError, match=r"no checkpoint fits .*parameters in .*frozen/0 cannot be read: 0 does not exist; rest"
    ):
        restore(folder)
    assert not (folder / missing).exists()


def test_unsafe_frozen_parameters_are_not_opened(folder):
    replace_by_pipe(folder / "frozen" / "0" / "params" / "_METADATA")
    why = (
        "frozen/0 cannot be read: 0 is not a readable checkpoint .params/_METADATA is not a regular file.; restore that folder"
    )
    with fuzz.limit_resources(seconds=60, memory=2**33), pytest.raises(UserError, match=why):
        restore(folder)


def test_damaged_frozen_parameters_can_be_repaired(folder, tmp_path):
    """They stay where they are, also beside another checkpoint that can be read."""
    saved = shutil.copytree(folder / "frozen" / "0", tmp_path / "saved")
    shutil.copytree(saved, folder / "frozen" / "5")
    (folder / "frozen" / "0" / "_CHECKPOINT_METADATA").write_text("{}")
    for _ in range(2):
        with pytest.raises(UserError, match=r"0 is not a readable checkpoint .*item_handlers\); restore that folder"):
            restore(folder)
    assert sorted(path.name for path in (folder / "frozen").iterdir()) == ["0", "5"]
    shutil.copytree(saved, folder / "frozen" / "0", dirs_exist_ok=True)
    assert int(restore(folder)[0].step) == 2


def damage_metadata(frozen):
    (frozen / "0" / "_CHECKPOINT_METADATA").write_text("{}")


def damage_files(frozen):
    replace_by_pipe(frozen / "0" / "params" / "_METADATA")


def damage_step(frozen):
    shutil.rmtree(frozen / "0")
    (frozen / "0").write_text("")


def damage_folder(frozen):
    shutil.rmtree(frozen)
    frozen.write_text("")


def link_elsewhere(frozen):
    frozen.symlink_to(shutil.move(frozen, frozen.parents[1] / "elsewhere"))


@pytest.mark.parametrize("damage", [damage_metadata, damage_files, damage_step, damage_folder, link_elsewhere])
def test_a_new_run_moves_damaged_frozen_parameters_aside(folder, damage):
    """Otherwise none of its checkpoints could be saved."""
    for step in (1, 2):
        shutil.rmtree(folder / str(step))
    damage(folder / "frozen")
    state, messages = advance(make_state()), []
    with Checkpoints(folder, log=messages.append) as checkpoints:
        checkpoints.start_saving_frozen(state.frozen)
        assert checkpoints.save(state, {"global_next_index": 1}, wait=True) == ""
    assert len(messages) == 1 and messages[0].endswith("; renamed to frozen.damaged-0")
    assert sorted(path.name for path in folder.iterdir()) == ["1", "frozen", "frozen.damaged-0"]
    assert restore(folder)[1]["global_next_index"] == 1


def test_a_new_run_is_refused_where_damaged_frozen_parameters_cannot_be_renamed(folder, monkeypatch):
    shutil.rmtree(folder / "1")
    shutil.rmtree(folder / "2")
    damage_metadata(folder / "frozen")
    with Checkpoints(folder) as checkpoints:
        monkeypatch.setattr(checkpoint_folder.stores, "is_url", lambda path: True)  # a bucket
        with pytest.raises(UserError, match=r"frozen: 0 is not a readable checkpoint .*; remove it, or give another --workdir"):
            checkpoints.start_saving_frozen(make_state().frozen)
    assert [path.name for path in folder.iterdir()] == ["frozen"]


def test_a_step_can_be_chosen(folder):
    with Checkpoints(folder) as checkpoints:
        assert int(checkpoints.restore(make_state(), step=1)[0].step) == 1
        with pytest.raises(UserError, match="has no complete checkpoint of step 3; use one of 1, 2"):
            checkpoints.restore(make_state(), step=3)


def test_a_failed_save_of_frozen_parameters_is_repeated(tmp_path):
    state, messages = advance(make_state()), []
    with Checkpoints(tmp_path / "checkpoints", log=messages.append) as checkpoints:
        (tmp_path / "checkpoints" / "frozen").write_text("")
        assert "the frozen parameters: File exists" in checkpoints.save(state, {"global_next_index": 1}, wait=True)
        checkpoints.save(state, {"global_next_index": 1}, wait=True)
        assert "1 failed so far" in messages[0] and "2 failed so far" in messages[1]
        assert len(messages) == 2 and "checkpoints: the save of step 1 failed" in messages[0]
        (tmp_path / "checkpoints" / "frozen").unlink()
        assert checkpoints.save(state, {"global_next_index": 1}, wait=True) == ""
    assert restore(tmp_path / "checkpoints")[1]["global_next_index"] == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "float8_e4m3fn"])
def test_the_hash_sees_values_names_types_and_order(dtype):
    values = jnp.arange(24, dtype=jnp.float32).reshape(4, 6).astype(dtype)
    params = {"a": {"kernel": values, "bias": values[0]}}
    expected = content_hash(params)
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    assert content_hash(jax.device_put(params, NamedSharding(mesh, P()))) == expected
    assert content_hash({"a": {**params["a"], "kernel": jax.device_put(values, NamedSharding(mesh, P("data")))}}) == expected
    changed = [
        {"a": {**params["a"], "kernel": values.at[3, 5].set(1)}},
        {"a": {**params["a"], "kernel": values[::-1]}},
        {"a": {**params["a"], "kernel": values.at[0, 0].set(values[3, 5]).at[3, 5].set(values[0, 0])}},
        {"a": {**params["a"], "kernel": values[:, ::-1]}},
        {"a": {**params["a"], "kernel": values.reshape(6, 4)}},
        {"a": {**params["a"], "kernel": values.astype("float16")}},
        {"b": params["a"]},
    ]
    assert len({content_hash(other) for other in (params, *changed)}) == 1 + len(changed)


def test_a_checkpoint_of_lora_at_the_published_size_is_small():
    """Its trainable parameters with both moments, in float32; the frozen ones are saved once."""
    config = configs.load("hyperseg_3b_lora")
    system = systems.get(config.system)
    groups = param_groups.groups_from_config(config.optimizer.param_groups)
    state = trace_initial_state(
        config, system, system.build(config), groups, lambda step: 1e-4, placement.make("single")
    ).abstract
    size = lambda tree: sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree) if leaf.shape)
    assert size((state.trainable, state.optimizer, state.average)) < 1.2e9 < 6e9 < size(state.frozen)


def test_exchanged_values_change_the_hash():
    values = jnp.arange(64.0 * 64).reshape(64, 64)
    expected = content_hash({"kernel": values})
    for one, other in (((1, 0), (0, 31)), ((0, 0), (0, 1)), ((5, 7), (7, 5)), ((0, 0), (63, 63))):
        exchanged = values.at[one].set(values[other]).at[other].set(values[one])
        assert content_hash({"kernel": exchanged}) != expected


def test_frozen_parameters_are_saved_while_training_goes_on(tmp_path):
    """The save starts before the first step; the first checkpoint completes it."""
    state = advance(make_state())
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.start_saving_frozen(state.frozen)
        state = state.replace(frozen=jax.tree.map(jnp.copy, state.frozen))
        assert checkpoints.save(state, {"global_next_index": 1}, wait=True) == ""
    assert restore(tmp_path / "checkpoints")[1]["global_next_index"] == 1
    with Checkpoints(tmp_path / "killed") as checkpoints:  # a run that ends before its first checkpoint
        checkpoints.start_saving_frozen(state.frozen)
    with Checkpoints(tmp_path / "killed") as checkpoints:
        assert checkpoints.latest is None
        assert checkpoints.save(state, {"global_next_index": 1}, wait=True) == ""
    assert restore(tmp_path / "killed")[1]["global_next_index"] == 1


@pytest.mark.parametrize("known_at_once", [True, False])
def test_a_failed_early_save_is_repeated_by_the_first_checkpoint(tmp_path, monkeypatch, known_at_once):
    """The disk was full when the run started, and is not when the first checkpoint is saved."""
    state, messages, failures = advance(make_state()), [], ["No space left on device"]
    with Checkpoints(tmp_path / "checkpoints", log=messages.append) as checkpoints:
        if known_at_once:
            monkeypatch.setattr(CheckpointFolder, "_write_probe", lambda self: failures.pop() if failures else "")
        else:
            finish = CheckpointFolder.finish_pending
            full = lambda self: failures.pop() if self._pending and failures else ""
            monkeypatch.setattr(CheckpointFolder, "finish_pending", lambda self: full(self) or finish(self))
        checkpoints.start_saving_frozen(state.frozen)
        assert len(messages) == known_at_once
        assert checkpoints.save(state, {"global_next_index": 1}, wait=True) == ""
    assert len(messages) == 1 and "checkpoints/frozen: the early save of the frozen parameters failed (No space" in messages[0]
    assert restore(tmp_path / "checkpoints")[1]["global_next_index"] == 1


def test_a_run_starts_to_save_its_frozen_parameters_before_the_first_step(small_system, micro, tmp_path, monkeypatch):
    """The early save fails here and is repeated, so that the first checkpoint is complete."""
    config, folder = micro(train__steps=4), tmp_path / "run" / "checkpoints"
    frozen = ({"pattern": "first/.*", "rate": 0.0, "decay": 0.0}, {"pattern": ".*", "rate": 1.0, "decay": 0.0})
    with config.unlocked():
        config.optimizer.param_groups = frozen
    (folder / "frozen").mkdir(parents=True)
    (folder / "frozen" / "0").write_text("")  # of a run before
    failures, probe = ["No space left on device"], CheckpointFolder._write_probe
    fails = lambda self: self.path.name == "frozen" and failures
    monkeypatch.setattr(CheckpointFolder, "_write_probe", lambda self: failures.pop() if fails(self) else probe(self))
    console = Console(file=io.StringIO(), width=300)
    loop.train(config, tmp_path / "run", console=console, stop_at=3)
    assert "renamed to frozen.damaged-0" in console.file.getvalue()
    assert "the early save of the frozen parameters failed (" in console.file.getvalue()
    assert "stopped at step 3" in console.file.getvalue() and (folder / "frozen" / "0").is_dir() and (folder / "3").is_dir()
