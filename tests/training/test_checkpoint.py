"""Checkpoints store the state at the time of the save; incomplete checkpoints are skipped."""

import gc
import json
import logging
import math
import os
import re
import shutil

import chex
import fuzz
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint
import pytest
from checkpoint_states import advance, edit_array, edit_chunks, make_state, replace_by_pipe, restore

from hyperseg_jax.errors import UserError
from hyperseg_jax.training.checkpoint import Checkpoints
from hyperseg_jax.untrusted import checkpoint_arrays
from hyperseg_jax.untrusted import checkpoints as untrusted


@pytest.fixture(scope="module")
def checkpoint_folder(tmp_path_factory):
    """Checkpoints of steps 1 and 2; each kernel equals its step."""
    workdir, state = tmp_path_factory.mktemp("run") / "checkpoints", make_state()
    with Checkpoints(workdir) as checkpoints:
        for step in (1, 2):
            state = advance(state)
            checkpoints.save(state, {"global_next_index": 10 * step}, wait=True)
    return workdir


@pytest.fixture
def copied_workdir(checkpoint_folder, tmp_path):
    return shutil.copytree(checkpoint_folder, tmp_path / "checkpoints")


def test_restore_gives_the_full_state(copied_workdir):
    result, run, output = restore(copied_workdir)
    expected = advance(advance(make_state()))
    assert run["global_next_index"] == 20 and not output
    data = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    chex.assert_trees_all_equal(jax.tree.map(data, result), jax.tree.map(data, expected))


def test_later_steps_do_not_change_a_pending_save(tmp_path):
    donating = jax.jit(lambda state: advance(state), donate_argnums=0)
    state = advance(make_state(1500))
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(state, {"global_next_index": 1})
        for _ in range(20):
            state = donating(state)
    result, _, _ = restore(tmp_path / "checkpoints", make_state(1500))
    np.testing.assert_array_equal(result.trainable["a"]["kernel"], 1.0)


@pytest.mark.parametrize("damaged_file", ["params/_METADATA", "params/manifest.ocdbt", "params/d", "train", "run/d"])
def test_a_damaged_checkpoint_falls_back_to_the_previous_one(copied_workdir, damaged_file):
    path = copied_workdir / "2" / damaged_file
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    result, run, output = restore(copied_workdir)
    assert int(result.step) == 1 and run["global_next_index"] == 10
    assert len(output) == 1 and "/2: cannot be read completely" in output[0]
    with Checkpoints(copied_workdir) as checkpoints:  # the run reaches that step again
        checkpoints.save(advance(result), {"global_next_index": 21}, wait=True)
    assert restore(copied_workdir)[1]["global_next_index"] == 21


@pytest.mark.parametrize("position", [2**31 - 2, 0, 21])
def test_a_position_that_no_run_reaches_falls_back_to_the_previous_one(copied_workdir, position):
    """Near the end of the stream, the run ended with a StopIteration."""
    shutil.rmtree(copied_workdir / "2")
    with Checkpoints(copied_workdir) as checkpoints:
        checkpoints.save(advance(advance(make_state())), {"global_next_index": position}, wait=True)
    messages = []
    with Checkpoints(copied_workdir, batch_size=10, log=messages.append) as checkpoints:
        assert int(checkpoints.restore(make_state())[0].step) == 1
        with pytest.raises(UserError, match=f"step 2: its position in the data is {position}, but its steps end at 20"):
            checkpoints.restore(make_state(), step=2)
    assert len(messages) == 1 and "/2: cannot be read completely" in messages[0]


@pytest.mark.parametrize(("writer", "shown"), [(orbax.checkpoint.__file__, False), (fuzz.__file__, True)])
def test_orbax_messages_are_suppressed(writer, shown):
    """Orbax's messages about waiting saves and leftovers of killed saves are suppressed."""
    record = logging.makeLogRecord({"pathname": writer, "msg": "Waiting for previous save", "levelno": logging.WARNING})
    assert bool(logging.getLogger("absl").filter(record)) == shown


def test_an_unfinished_save_is_no_checkpoint(copied_workdir):
    shutil.copytree(copied_workdir / "2", copied_workdir / "3.orbax-checkpoint-tmp")
    (copied_workdir / "3.orbax-checkpoint-tmp" / "_CHECKPOINT_METADATA").unlink()
    assert int(restore(copied_workdir)[0].step) == 2


def test_shape_mismatch_is_one_line(copied_workdir):
    with pytest.raises(UserError, match=r"no checkpoint fits this config.*use the config it was trained with"):
        restore(copied_workdir, make_state(32))


def test_the_newest_and_the_best_are_kept(tmp_path):
    state = make_state()
    with Checkpoints(tmp_path, keep=2, best="referring/ciou") as checkpoints:
        for score in (math.nan, 0.9, math.nan, None, 0.5, math.nan, 0.2, 0.3):  # of a validation without an object
            state = advance(state)
            scores = score and {"referring": {"ciou": score}}
            checkpoints.save(state, {"global_next_index": 0}, scores=scores)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "7", "8", "frozen"]
    with (
        Checkpoints(tmp_path, best="referring/pq") as checkpoints,
        pytest.raises(UserError, match=r"use one of referring/ciou"),
    ):
        checkpoints.save(advance(state), {}, scores={"referring": {"ciou": 0.1}})


def test_a_failed_save_is_reported_and_the_next_one_succeeds(tmp_path):
    """The save fails at a file size limit, as on a full disk; then in a folder without permissions."""
    import resource

    logged, state = [], advance(make_state(400))
    noise = jax.random.normal(jax.random.key(0), (400, 400))  # does not compress
    state = state.replace(trainable={"a": {"kernel": noise}})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(tmp_path / "checkpoints", log=logged.append) as checkpoints:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            messages = checkpoints.save(state, {"global_next_index": 1}, wait=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert "File too large" in messages, messages
        assert "the save of step 1 failed" in logged[0] and "1 failed so far" in logged[0]
        assert checkpoints.latest is None

        state = advance(state)
        checkpoints.save(state, {"global_next_index": 2})
        assert checkpoints.save(advance(state), {"global_next_index": 3}, wait=True) == ""
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "3", "frozen"]
    assert restore(tmp_path / "checkpoints", make_state(400))[1]["global_next_index"] == 3


def test_a_missing_folder_fails_the_save_only(tmp_path):
    messages, workdir, state = [], tmp_path / "checkpoints", advance(make_state())
    with Checkpoints(workdir, log=messages.append) as checkpoints:
        workdir.rmdir()
        workdir.write_text("")
        assert "cannot be written" in checkpoints.save(state, {}, wait=True)
        workdir.unlink()
        assert checkpoints.save(advance(state), {"global_next_index": 2}, wait=True) == "" and len(messages) == 1
    assert restore(workdir)[1]["global_next_index"] == 2


def replace_by_zeros(path):
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def replace_by_link(path):
    """Replaces the folder by a link to a valid one."""
    path.symlink_to(path.rename(path.parent.parent.parent / "elsewhere"))


def make_sparse(path):
    os.truncate(path, untrusted.LARGEST + 1)


def edit_fields(**changed):
    return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | changed))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *(
            ("_CHECKPOINT_METADATA", replace_by_pipe),
            ("params/_METADATA", replace_by_zeros),
            ("run/_METADATA", replace_by_pipe),
            ("run/manifest.ocdbt", replace_by_zeros),
        ),
        *(
            ("params/d/more", replace_by_pipe),
            ("", replace_by_link),
            ("train", replace_by_link),
            ("params/_METADATA", make_sparse),
        ),
        ("_CHECKPOINT_METADATA", lambda path: path.write_text("[" * 100_000)),
        ("_CHECKPOINT_METADATA", lambda path: path.write_text("[]")),
        *(("_CHECKPOINT_METADATA", edit_fields(commit_timestamp_nsecs=time)) for time in ("x", 10**40)),
        *(("_CHECKPOINT_METADATA", edit_fields(metrics=scores)) for scores in ([1], {"other": 1}, {"best": "x"})),
        *(("run/_METADATA", edit_fields(use_ocdbt=False)), ("run/_METADATA", edit_fields(value_metadata_tree="{}"))),
    ],
)
def test_unsafe_files_are_moved_aside_before_orbax_opens_them(copied_workdir, name, damage):
    damage(copied_workdir / "2" / name)
    with fuzz.limit_resources(seconds=60, memory=2**33):
        result, run, output = restore(copied_workdir)
    assert int(result.step) == 1 and run["global_next_index"] == 10
    assert len(output) == 1 and "2 is not a readable checkpoint (" in output[0] and "renamed to 2.damaged-0" in output[0]
    assert sorted(path.name for path in copied_workdir.iterdir()) == ["1", "2.damaged-0", "frozen"]


@pytest.mark.parametrize("scores", ["garbage", "[]", "{}", '{"best": "x"}', '{"best": 1, "a": 2}', "[" * 100_000, "[]," * 2000])
def test_damaged_scores_are_detected_before_orbax_reads_them(copied_workdir, scores):
    (copied_workdir / "2" / "metrics").mkdir(exist_ok=True)
    (copied_workdir / "2" / "metrics" / "metrics").write_text(scores)
    with fuzz.limit_resources(seconds=60, memory=2**33):
        result, _, output = restore(copied_workdir)
    assert int(result.step) == 1 and len(output) == 1 and "renamed to 2.damaged-0" in output[0]


def test_a_checkpoint_that_a_run_removes_meanwhile_is_not_damaged(copied_workdir, monkeypatch):
    def check(folder):
        if folder.name == "1":
            raise FileNotFoundError(2, "No such file or directory", str(folder / "params"))

    monkeypatch.setattr(untrusted, "check_checkpoint", check)
    with Checkpoints(copied_workdir, read_only=True) as checkpoints:
        assert checkpoints.check_newest(make_state())[0] == 2


def test_without_a_valid_checkpoint_the_run_fails_and_keeps_all_files(copied_workdir):
    shutil.rmtree(copied_workdir / "1")
    replace_by_pipe(copied_workdir / "2" / "_CHECKPOINT_METADATA")
    for _ in range(2):
        with pytest.raises(
            UserError,
            match=r"checkpoints: 2 is not a readable checkpoint .*_METADATA is not a regular file.* there is no other; remove",
        ):
            Checkpoints(copied_workdir)


def test_unknown_names_are_ignored_and_leftovers_removed(copied_workdir, tmp_path):
    saved = tmp_path / "important"
    saved.mkdir()
    (saved / "file").write_text("")
    (copied_workdir / "7.orbax-checkpoint-tmp-1").symlink_to(saved)
    (copied_workdir / ".probe-1f").write_text("a save begins\n")
    (copied_workdir / "9").write_text("")
    for name in (str(10**30), "9" * 200, str(2**53), "1\u0661", "1\n"):
        shutil.copytree(copied_workdir / "1", copied_workdir / name)
    result, _, output = restore(copied_workdir)
    assert int(result.step) == 2 and len(output) == 6 and all(line.isprintable() for line in output)
    assert sorted(path.name for path in copied_workdir.iterdir() if ".damaged-0" not in path.name) == [
        "1",
        "2",
        "frozen",
    ] and list(saved.iterdir())


def test_a_checkpoint_folder_linked_outside_the_workdir_is_refused(copied_workdir, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(copied_workdir)
    (copied_workdir / ".probe-mine").write_text("")
    with pytest.raises(UserError, match=r"run/checkpoints: checkpoints is a link that leaves .*--limits outside=True"):
        Checkpoints(tmp_path / "run" / "checkpoints")
    assert (copied_workdir / ".probe-mine").exists()


KERNEL = "trainable.a.kernel"


def edit_entry(entry, member, **changed):
    """Changes fields of an entry in a part's metadata."""

    def change(path):
        loaded = json.loads((path / "_METADATA").read_text())
        of = loaded["tree_metadata"][entry][member]
        (of if isinstance(of, dict) else of[0]).update(changed)
        (path / "_METADATA").write_text(json.dumps(loaded))

    return change


TREE_KERNEL = "('trainable', 'a', 'kernel')"


@pytest.mark.parametrize(
    ("part", "damage", "why"),
    [
        ("run", edit_array("format", shape=[2**36]), r"format has the shape \[68719476736\]"),
        ("run", edit_array("format", shape=None), "format has the shape None"),
        ("run", edit_array("format", chunk_grid=None), "has invalid metadata"),
        ("run", edit_array("format", data_type="complex64"), "has the type 'complex64', expected a number"),
        ("run", edit_array("format", codecs=[{"name": "evil"}]), "has invalid metadata"),
        ("run", edit_entry("('format',)", "value_metadata", value_type="jax.Array"), "has an unexpected 'jax.Array'"),
        ("run", edit_entry("('format',)", "value_metadata", value_type="string"), "lacks the string format"),
        ("train", edit_array("step", shape=[1], chunk_grid=edit_chunks(1)), r"step has the shape \[1\], expected \[\]"),
        ("params", edit_array(KERNEL, chunk_grid=edit_chunks(2**36, 1)), r"has chunks of the shape \[68719476736, 1\]"),
        ("params", edit_array(KERNEL, shape=[32, 64], chunk_grid=edit_chunks(32, 64)), r"has the shape \[32, 64\]"),
        ("params", edit_array(KERNEL, data_type="bfloat16"), "has the type 'bfloat16', expected float32"),
        ("params", edit_array(KERNEL, node_type="group"), "kernel has metadata that TensorStore cannot read"),
        ("params", edit_array(KERNEL, fill_value="x"), "kernel has metadata that TensorStore cannot read"),
        ("params", edit_array(KERNEL, chunk_key_encoding={"name": "v2"}), "NOT_FOUND: chunk"),
        (
            "params",
            edit_entry(TREE_KERNEL, "key_metadata", key="b"),
            r"its params (lacks trainable.a|has an unexpected b.a).kernel",
        ),
        ("params", edit_entry(TREE_KERNEL, "key_metadata", key_type=1), "an entry of an unknown kind"),
        ("params", edit_entry(TREE_KERNEL, "value_metadata", write_shape=5), "an entry of an unknown kind"),
        ("params", lambda path: (path / "array_metadatas" / "process_0").write_text("x"), "process_0 is not readable JSON"),
        *(
            (
                "train",
                lambda path, text=text: (path / "array_metadatas" / "process_0").write_text(text),
                "process_0 has an unknown format",
            )
            for text in ("{}", '{"array_metadatas": [{}]}', '{"array_metadatas": [{"array_metadata": {"param_name": "key"}}]}')
        ),
    ],
)
def test_mismatching_arrays_are_reported_in_one_line(copied_workdir, capfd, part, damage, why):
    """Nothing else is printed, although each of Orbax's own tasks logs its failure."""
    damage(copied_workdir / "2" / part)
    with fuzz.limit_resources(seconds=60, memory=2**33):
        result, _, output = restore(copied_workdir)
    gc.collect()
    assert (
        int(result.step) == 1
        and len(output) == 1
        and "/2: cannot be read completely" in output[0]
        and re.search(why, output[0])
    )
    assert capfd.readouterr() == ("", "")


def test_shared_large_values_are_not_read(copied_workdir, monkeypatch):
    monkeypatch.setattr(checkpoint_arrays, "DESCRIPTIONS", 500)  # of two arrays
    with pytest.raises(UserError, match="the metadata of its arrays has more than 500 bytes"):
        restore(copied_workdir)


def test_oversized_files_are_not_read(copied_workdir):
    os.truncate(next((copied_workdir / "2" / "run" / "ocdbt.process_0" / "d").iterdir()), 2**30)
    assert "its run has far more bytes than its arrays" in restore(copied_workdir)[2][0]


def test_a_checkpoint_with_another_step_than_its_folder_is_skipped(copied_workdir):
    """Otherwise every restart would resume from it, or from a step that the run never reached."""
    (copied_workdir / "2").rename(copied_workdir / "7")
    result, _, output = restore(copied_workdir)
    assert (
        int(result.step) == 1
        and len(output) == 1
        and "/7: cannot be read completely" in output[0]
        and "contains step 2" in output[0]
    )


@pytest.mark.parametrize("part", ["params", "train"])
def test_a_part_of_another_step_is_skipped(copied_workdir, part):
    shutil.rmtree(copied_workdir / "2" / part)
    shutil.copytree(copied_workdir / "1" / part, copied_workdir / "2" / part)
    result, _, output = restore(copied_workdir)
    assert int(result.step) == 1 and len(output) == 1 and "(it contains step 1)" in output[0]


@pytest.mark.parametrize("part", ["trainable", "optimizer"])
def test_a_non_finite_checkpoint_falls_back_to_the_previous_one(tmp_path, part):
    state = advance(make_state())
    with_nan = jax.tree.map(lambda x: x.at[(0,) * x.ndim].set(jnp.nan) if x.dtype == jnp.float32 else x, getattr(state, part))
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(state, {"global_next_index": 10}, wait=True)
        checkpoints.save(advance(state).replace(**{part: with_nan}), {"global_next_index": 20}, wait=True)
    result, _, output = restore(tmp_path / "checkpoints")
    assert (
        int(result.step) == 1
        and len(output) == 1
        and "/2: " in output[0]
        and "non-finite numbers, so the training diverged" in output[0]
    )
