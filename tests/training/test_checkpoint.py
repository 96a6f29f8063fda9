"""Checkpoints hold what the state was when they were asked for, and a torn one is passed over."""

import gc
import json
import logging
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

from hyperseg_jax.errors import UserError
from hyperseg_jax.training.checkpoint import Checkpoints
from hyperseg_jax.training.param_groups import ParamGroup, optimizer
from hyperseg_jax.training.state import create
from hyperseg_jax.untrusted import checkpoint_arrays
from hyperseg_jax.untrusted import checkpoints as untrusted

RULES = (ParamGroup("frozen/.*", rate=0), ParamGroup(".*"))


def fresh(size=64):
    params = {"a": {"kernel": jnp.zeros((size, size))}, "frozen": {"kernel": jnp.full((3,), 7.0)}}
    tx = optimizer({"a": params["a"]}, RULES, lambda step: 1e-3)
    return create(params, RULES, tx, seed=5)


@jax.jit
def advance(state):
    return state.replace(step=state.step + 1, trainable=jax.tree.map(lambda x: x + 1, state.trainable))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Steps 1 and 2; each kernel holds its step."""
    home, state = tmp_path_factory.mktemp("run") / "checkpoints", fresh()
    with Checkpoints(home) as checkpoints:
        for step in (1, 2):
            state = advance(state)
            checkpoints.save(state, {"global_next_index": 10 * step}, wait=True)
    return home


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "checkpoints")


def restore(home, state=None):
    said = []
    with Checkpoints(home, log=said.append) as checkpoints:
        found, run = checkpoints.restore(state or fresh())
    return found, run, said


def test_all_of_the_state_comes_back(copy):
    found, run, said = restore(copy)
    wanted = advance(advance(fresh()))
    assert run["global_next_index"] == 20 and not said
    data = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    chex.assert_trees_all_equal(jax.tree.map(data, found), jax.tree.map(data, wanted))


def test_a_save_under_way_is_not_disturbed_by_the_next_steps(tmp_path):
    donating = jax.jit(lambda state: advance(state), donate_argnums=0)
    state = advance(fresh(1500))
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(state, {"global_next_index": 1})
        for _ in range(20):
            state = donating(state)
    found, _, _ = restore(tmp_path / "checkpoints", fresh(1500))
    np.testing.assert_array_equal(found.trainable["a"]["kernel"], 1.0)


@pytest.mark.parametrize("torn", ["params/_METADATA", "params/manifest.ocdbt", "params/d", "train", "run/d"])
def test_a_torn_checkpoint_gives_way_to_the_one_before(copy, torn):
    path = copy / "2" / torn
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    found, run, said = restore(copy)
    assert int(found.step) == 1 and run["global_next_index"] == 10
    assert len(said) == 1 and "/2: cannot be read completely" in said[0]
    with Checkpoints(copy) as checkpoints:  # the run comes to that step again
        checkpoints.save(advance(found), {"global_next_index": 21}, wait=True)
    assert restore(copy)[1]["global_next_index"] == 21


@pytest.mark.parametrize(("writer", "heard"), [(orbax.checkpoint.__file__, False), (fuzz.__file__, True)])
def test_orbax_has_no_lines_of_its_own(writer, heard):
    """Of saves that wait, and of what a kill leaves."""
    record = logging.makeLogRecord({"pathname": writer, "msg": "Waiting for previous save", "levelno": logging.WARNING})
    assert bool(logging.getLogger("absl").filter(record)) == heard


def test_an_unfinished_save_is_no_checkpoint(copy):
    shutil.copytree(copy / "2", copy / "3.orbax-checkpoint-tmp")
    (copy / "3.orbax-checkpoint-tmp" / "_CHECKPOINT_METADATA").unlink()
    assert int(restore(copy)[0].step) == 2


def test_another_shape_is_one_clear_line(copy):
    with pytest.raises(UserError, match=r"no checkpoint fits this config.*use the config it was trained with"):
        restore(copy, fresh(32))


def test_the_newest_and_the_best_are_kept(tmp_path):
    state = fresh()
    with Checkpoints(tmp_path, keep=2, best="referring/ciou") as checkpoints:
        for score in (0.1, 0.9, None, 0.5, 0.2, 0.3):
            state = advance(state)
            scores = score and {"referring": {"ciou": score}}
            checkpoints.save(state, {"global_next_index": 0}, scores=scores)
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [2, 5, 6]
    with (
        Checkpoints(tmp_path, best="referring/pq") as checkpoints,
        pytest.raises(UserError, match=r"use one of referring/ciou"),
    ):
        checkpoints.save(advance(state), {}, scores={"referring": {"ciou": 0.1}})


def test_a_save_that_fails_is_told_and_the_next_one_is_whole(tmp_path):
    """What fails is a file that grows beyond a limit, as on a full disk; then a folder without rights."""
    import resource

    said, state = [], advance(fresh(400))
    noise = jax.random.normal(jax.random.key(0), (400, 400))  # does not compress
    state = state.replace(trainable={"a": {"kernel": noise}})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(tmp_path / "checkpoints", log=said.append) as checkpoints:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            told = checkpoints.save(state, {"global_next_index": 1}, wait=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert "File too large" in told, told
        assert "the save of step 1 failed" in said[0] and "1 failed so far" in said[0]
        assert checkpoints.latest is None

        state = advance(state)
        checkpoints.save(state, {"global_next_index": 2})
        assert checkpoints.save(advance(state), {"global_next_index": 3}, wait=True) == ""
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "3"]
    assert restore(tmp_path / "checkpoints", fresh(400))[1]["global_next_index"] == 3


def test_a_folder_that_vanishes_or_turns_into_a_file_fails_the_save_only(tmp_path):
    said, home, state = [], tmp_path / "checkpoints", advance(fresh())
    with Checkpoints(home, log=said.append) as checkpoints:
        home.rmdir()
        home.write_text("")
        assert "File exists" in checkpoints.save(state, {}, wait=True)
        home.unlink()
        assert checkpoints.save(advance(state), {"global_next_index": 2}, wait=True) == "" and len(said) == 1
    assert restore(home)[1]["global_next_index"] == 2


def pipe(path):
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def endless(path):
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def elsewhere(path):
    """A link to a folder that is sound."""
    path.symlink_to(path.rename(path.parent.parent.parent / "elsewhere"))


def sparse(path):
    os.truncate(path, untrusted.LARGEST + 1)


def fields(**changed):
    return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | changed))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *(
            ("_CHECKPOINT_METADATA", pipe),
            ("params/_METADATA", endless),
            ("run/_METADATA", pipe),
            ("run/manifest.ocdbt", endless),
        ),
        *(("params/d/more", pipe), ("", elsewhere), ("train", elsewhere), ("params/_METADATA", sparse)),
        ("_CHECKPOINT_METADATA", lambda path: path.write_text("[" * 100_000)),
        ("_CHECKPOINT_METADATA", lambda path: path.write_text("[]")),
        *(("_CHECKPOINT_METADATA", fields(commit_timestamp_nsecs=time)) for time in ("x", 10**40)),
        *(("_CHECKPOINT_METADATA", fields(metrics=scores)) for scores in ([1], {"other": 1}, {"best": "x"})),
        *(("run/_METADATA", fields(use_ocdbt=False)), ("run/_METADATA", fields(value_metadata_tree="{}"))),
    ],
)
def test_what_orbax_must_not_open_is_put_aside_before_it_does(copy, name, damage):
    damage(copy / "2" / name)
    with fuzz.bounded(seconds=60, memory=2**33):
        found, run, said = restore(copy)
    assert int(found.step) == 1 and run["global_next_index"] == 10
    assert len(said) == 1 and "2 is not a readable checkpoint (" in said[0] and "renamed to 2.damaged-0" in said[0]
    assert sorted(path.name for path in copy.iterdir()) == ["1", "2.damaged-0"]


@pytest.mark.parametrize("scores", ["garbage", "[]", "{}", '{"best": "x"}', '{"best": 1, "a": 2}', "[" * 100_000, "[]," * 2000])
def test_scores_that_orbax_would_read_of_every_checkpoint_are_looked_at_first(copy, scores):
    (copy / "2" / "metrics").mkdir(exist_ok=True)
    (copy / "2" / "metrics" / "metrics").write_text(scores)
    with fuzz.bounded(seconds=60, memory=2**33):
        found, _, said = restore(copy)
    assert int(found.step) == 1 and len(said) == 1 and "renamed to 2.damaged-0" in said[0]


def test_where_no_checkpoint_is_left_the_run_ends_and_all_stays(copy):
    shutil.rmtree(copy / "1")
    pipe(copy / "2" / "_CHECKPOINT_METADATA")
    for _ in range(2):
        with pytest.raises(
            UserError,
            match=r"checkpoints: 2 is not a readable checkpoint .*_METADATA is not a regular file.* there is no other; remove",
        ):
            Checkpoints(copy)


def test_odd_names_are_no_steps_and_what_killed_saves_left_goes(copy, tmp_path):
    kept = tmp_path / "important"
    kept.mkdir()
    (kept / "file").write_text("")
    (copy / "7.orbax-checkpoint-tmp-1").symlink_to(kept)
    (copy / ".probe-1f").write_text("a save begins\n")
    (copy / "9").write_text("")
    for name in (str(10**30), "9" * 200, str(2**53), "1\u0661", "1\n"):
        shutil.copytree(copy / "1", copy / name)
    found, _, said = restore(copy)
    assert int(found.step) == 2 and len(said) == 6 and all(line.isprintable() for line in said)
    assert sorted(path.name for path in copy.iterdir() if ".damaged-0" not in path.name) == ["1", "2"] and list(kept.iterdir())


def test_a_folder_of_checkpoints_that_leads_out_of_the_workdir_is_refused(copy, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(copy)
    (copy / ".probe-mine").write_text("")
    with pytest.raises(UserError, match=r"run/checkpoints: checkpoints is a link that leaves .*--limits outside=True"):
        Checkpoints(tmp_path / "run" / "checkpoints")
    assert (copy / ".probe-mine").exists()


KERNEL = "trainable.a.kernel"
BYTES = {"name": "bytes", "configuration": {"endian": "little"}}


def rewritten(name, **changed):
    """Other fields of an array's description."""

    def change(path):
        import tensorstore

        base = {"driver": "file", "path": f"{path}/"}
        store, key = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result(), f"{name}/zarr.json"
        store[key] = json.dumps(json.loads(store[key]) | changed).encode()

    return change


def relisted(entry, member, **changed):
    """Other fields of an entry in the metadata of a part."""

    def change(path):
        held = json.loads((path / "_METADATA").read_text())
        of = held["tree_metadata"][entry][member]
        (of if isinstance(of, dict) else of[0]).update(changed)
        (path / "_METADATA").write_text(json.dumps(held))

    return change


def sides(*chunk):
    return {"name": "regular", "configuration": {"chunk_shape": list(chunk)}}


TREE_KERNEL = "('trainable', 'a', 'kernel')"


@pytest.mark.parametrize(
    ("part", "damage", "why"),
    [
        ("run", rewritten("format", shape=[2**36]), r"format has the shape \[68719476736\]"),
        ("run", rewritten("format", shape=None), "format has the shape None"),
        ("run", rewritten("format", chunk_grid=None), "has invalid metadata"),
        ("run", rewritten("format", data_type="complex64"), "has the type 'complex64', expected a number"),
        ("run", rewritten("format", codecs=[{"name": "evil"}]), "uses the codec 'evil', but only sharding_indexed, bytes"),
        ("run", relisted("('format',)", "value_metadata", value_type="jax.Array"), "has an unexpected 'jax.Array'"),
        ("run", relisted("('format',)", "value_metadata", value_type="string"), "no such file"),
        ("train", rewritten("step", shape=[1], chunk_grid=sides(1)), r"step has the shape \[1\], expected \[\]"),
        ("params", rewritten(KERNEL, chunk_grid=sides(2**36, 1)), "has chunks larger than its array"),
        ("params", rewritten(KERNEL, shape=[32, 64], chunk_grid=sides(32, 64)), r"has the shape \[32, 64\]"),
        ("params", rewritten(KERNEL, data_type="bfloat16"), "has the type 'bfloat16', expected float32"),
        ("params", rewritten(KERNEL, codecs=[BYTES, {"name": "gzip"}]), "uses the codec 'gzip'"),
        (
            "params",
            rewritten(KERNEL, codecs=[BYTES, {"name": "zstd", "configuration": {"level": "x"}}]),
            "metadata that TensorStore cannot read",
        ),
        ("params", rewritten(KERNEL, node_type="group"), "kernel has metadata that TensorStore cannot read"),
        ("params", rewritten(KERNEL, fill_value="x"), "kernel has metadata that TensorStore cannot read"),
        ("params", rewritten(KERNEL, chunk_key_encoding={"name": "v2"}), "NOT_FOUND: chunk"),
        (
            "params",
            relisted(TREE_KERNEL, "key_metadata", key="b"),
            r"its params (lacks trainable.a|has an unexpected b.a).kernel",
        ),
        ("params", relisted(TREE_KERNEL, "key_metadata", key_type=1), "an entry of an unknown kind"),
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
def test_arrays_that_are_not_those_of_the_run_are_told_in_one_line(copy, capfd, part, damage, why):
    """Nothing else is printed: Orbax's own tasks complain one by one where a part of them fails."""
    damage(copy / "2" / part)
    with fuzz.bounded(seconds=60, memory=2**33):
        found, _, said = restore(copy)
    gc.collect()
    assert int(found.step) == 1 and len(said) == 1 and "/2: cannot be read completely" in said[0] and re.search(why, said[0])
    assert capfd.readouterr() == ("", "")


def test_names_that_share_one_large_value_are_not_read(copy, monkeypatch):
    monkeypatch.setattr(checkpoint_arrays, "DESCRIPTIONS", 500)  # of two arrays
    with pytest.raises(UserError, match="the metadata of its arrays has more than 500 bytes"):
        restore(copy)


def test_files_far_beyond_their_arrays_are_not_read(copy):
    os.truncate(next((copy / "2" / "run" / "ocdbt.process_0" / "d").iterdir()), 2**30)
    assert "its run has far more bytes than its arrays" in restore(copy)[2][0]


def test_a_checkpoint_of_another_step_than_its_folder_says_is_passed_over(copy):
    """Else every restart would go back to it, or on from a step that the run never reached."""
    (copy / "2").rename(copy / "7")
    found, _, said = restore(copy)
    assert (
        int(found.step) == 1 and len(said) == 1 and "/7: cannot be read completely" in said[0] and "contains step 2" in said[0]
    )


@pytest.mark.parametrize("part", ["trainable", "frozen", "optimizer"])
def test_a_checkpoint_that_is_not_finite_gives_way_to_the_one_before(tmp_path, part):
    state = advance(fresh())
    spoilt = jax.tree.map(lambda x: x.at[(0,) * x.ndim].set(jnp.nan) if x.dtype == jnp.float32 else x, getattr(state, part))
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(state, {"global_next_index": 10}, wait=True)
        checkpoints.save(advance(state).replace(**{part: spoilt}), {"global_next_index": 20}, wait=True)
    found, _, said = restore(tmp_path / "checkpoints")
    assert (
        int(found.step) == 1
        and len(said) == 1
        and "/2: " in said[0]
        and "non-finite numbers, so the training diverged" in said[0]
    )
