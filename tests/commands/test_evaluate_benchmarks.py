"""hyperseg evaluate --benchmarks: table, sheets and submissions; a killed evaluation resumes without double counting."""

import io
import json
import os
import pathlib
import zipfile

import numpy as np
import pytest
from PIL import Image
from sample_inputs import random_params

from hyperseg_jax.commands.evaluate_benchmarks import score_text
from hyperseg_jax.commands.main import main
from hyperseg_jax.evaluation import benchmark_run, engine
from hyperseg_jax.parallel import hosts
from hyperseg_jax.systems import system as systems
from hyperseg_jax.text.tokenizer import Tokenizer
from hyperseg_jax.weights import model_folder

MICRO = pathlib.Path(__file__).parents[1] / "micro_config.py"
ALL = """import runpy
def get_config():
    return runpy.run_path({micro!r})["get_config"](("referring", "reasoning", "panoptic", "region", "video", "chat"))
"""


@pytest.fixture
def run_evaluate(world, trained, tmp_path):
    config = tmp_path / "config.py"
    config.write_text(ALL.format(micro=str(MICRO)))

    def command(benchmarks, *more, out=tmp_path / "out"):
        main(
            [
                "evaluate",
                "--config",
                str(config),
                "--checkpoint",
                str(trained),
                "--benchmarks",
                benchmarks,
                "--data-root",
                str(world),
                "--out",
                str(out),
                "--batch-size",
                "4",
                *more,
            ]
        )
        return json.loads((out / "scores.json").read_text())["scores"]

    return command


class KilledError(Exception):
    pass


def test_a_killed_evaluation_resumes(micro, run_evaluate, tmp_path, monkeypatch, capsys):
    exchange, waited = hosts.exchange, {}
    noted = lambda what, *text, **more: waited.update({what: more}) or exchange(what, *text, **more)
    monkeypatch.setattr(hosts, "exchange", noted)
    full = run_evaluate("toy_referring", "--limit", "11", out=tmp_path / "whole")["toy_referring"]
    assert full["count"] == 11 and 0 < full["giou"] < 1
    assert "toy_referring" in capsys.readouterr().out
    assert (
        waited["the scores and files of toy_referring"]["seconds"] >= 3600
    )  # other hosts have patience with the one that writes
    sheet = np.asarray(Image.open(tmp_path / "whole" / "toy_referring.png"))
    assert sheet.std() > 10

    run, answer, calls = benchmark_run.run, engine._run_batch, []
    monkeypatch.setattr(benchmark_run, "run", lambda *args, **more: run(*args, **{**more, "save_every": 1}))

    def raise_killed(model, batch, writes):
        calls.append(batch.first)
        if len(calls) == 3:
            raise KilledError
        answer(model, batch, writes)

    monkeypatch.setattr(engine, "_run_batch", raise_killed)
    with pytest.raises(SystemExit):
        run_evaluate("toy_referring", "--limit", "11")
    assert json.loads((tmp_path / "out" / "partial" / "toy_referring.json").read_text())["done"] == 8
    result = run_evaluate("toy_referring", "--limit", "11")["toy_referring"]
    assert calls == [0, 4, 8, 8]
    assert result == pytest.approx(full, rel=1e-6)
    assert "resumed after 8 examples" in capsys.readouterr().err
    cases = [json.loads((tmp_path / f / "partial" / "toy_referring.json").read_text())["cases"] for f in ("out", "whole")]
    assert [case["index"] for case in cases[0]] == [case["index"] for case in cases[1]]
    with pytest.raises(SystemExit):
        run_evaluate("toy_referring", "--limit", "10")
    assert "is from an evaluation with examples = 11, not 10" in capsys.readouterr().err.replace("\n", " ")


def test_another_model_of_equal_shapes_is_refused(run_evaluate, capsys):
    """Rounding, and what only changes training, may differ."""
    with pytest.raises(SystemExit) as ended:
        run_evaluate("toy_referring", "--config.model.mask_decoder.num_heads=4")
    message = capsys.readouterr().err
    assert ended.value.code == 2 and message.count("\n") == 1
    assert "is a model of another config" in message and "model.mask_decoder.num_heads: 2 saved, 4 given" in message
    more = [f"--config.model.{field}" for field in ("precision.compute=bfloat16", "llm.embedding_std=0.5")]
    assert run_evaluate("toy_referring", "--limit", "1", *more)["toy_referring"]["count"] == 1


def write_tokenizer(folder, *, swapped=False, more=0):
    """Writes the toy tokenizer, with the ids of its letters and words in reverse order, or with more tokens."""
    content = json.loads(Tokenizer.toy().to_json())
    vocabulary, added = content["model"]["vocab"], {token["id"] for token in content["added_tokens"]}
    words = [word for word, number in vocabulary.items() if number not in added]
    if swapped:
        vocabulary |= dict(zip(words, [vocabulary[word] for word in reversed(words)], strict=True))
    first = Tokenizer.toy().vocab_size
    content["added_tokens"] += [content["added_tokens"][0] | {"id": first + k, "content": f"<{k}>"} for k in range(more)]
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(content))


@pytest.mark.parametrize("name", ["other", "{root}/phi-2"])
def test_the_tokenizer_of_the_checkpoint_is_used(run_evaluate, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_tokenizer(tmp_path / "other", swapped=True)
    ids = []

    def raise_killed(engine, line, task, **settings):
        ids.append(task.processor(task.val[0], train=False)["layout"]["text_ids"])
        raise KilledError

    monkeypatch.setattr(benchmark_run, "run", raise_killed)
    for more in ([], [f"--config.data.tokenizer={name}"]):
        with pytest.raises(SystemExit):
            run_evaluate("toy_referring", *more)
    np.testing.assert_array_equal(*ids)


def test_the_vocabulary_of_the_checkpoint_is_used(micro, run_evaluate, tmp_path):
    """It differs between the public checkpoints of one model; an import takes it from them."""
    rows = Tokenizer.toy().vocab_size + 8
    config = micro(model__llm__vocab_size=rows, model__head_vocab_size=rows + 1, data__root="")
    params = random_params(systems.get("hyperseg").shapes(config), seed=1)
    model_folder.save_model(tmp_path / "larger", config, Tokenizer.toy(), params)
    write_tokenizer(tmp_path / "larger", more=8)
    larger = ["--checkpoint", str(tmp_path / "larger")]
    assert run_evaluate("toy_referring", *larger, "--limit", "1")["toy_referring"]["count"] == 1


ON_NOTHING = ["evaluate", "--config", "tiny", "--checkpoint", "tiny", "--benchmarks", "toy_video", "--data-root"]


OBSTACLES = {
    **dict.fromkeys(("partial", "toy_video", "toy_video/submission"), pathlib.Path.touch),
    **dict.fromkeys(("scores.json", "toy_video.png", "toy_video/submission.zip", "toy_video/submission/x"), pathlib.Path.mkdir),
}


@pytest.mark.parametrize("name", OBSTACLES)
def test_unwritable_outputs_are_reported_before_scoring(name, tmp_path, capsys):
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    OBSTACLES[name](out / name)
    with pytest.raises(SystemExit) as ended:
        main([*ON_NOTHING, str(tmp_path), "--out", str(out)])
    messages = capsys.readouterr().err
    assert ended.value.code == 2 and messages.count("\n") == 1 and str(out) in messages
    assert any(words in messages for words in ("is not a folder", "is a folder, but a file", "would be deleted", "is a file"))


@pytest.mark.parametrize("name", ["partial", "toy_video"])
def test_linked_folders_are_not_written(name, tmp_path, capsys):
    (tmp_path / "away").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to(tmp_path / "away")
    command = [*ON_NOTHING, str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--out", str(tmp_path / "out")])
    messages = capsys.readouterr().err.replace("\n", " ")
    assert ended.value.code == 2 and f"out: {name} is a link that leaves" in messages and not any((tmp_path / "away").iterdir())


@pytest.mark.parametrize("name", ["partial", "toy_video"])
def test_a_restored_folder_is_checked_before_scoring(name, tmp_path, capsys):
    """A temporary folder of a killed run, from someone else: its link is not restored, and its folders are checked."""
    out = tmp_path / "out"
    (tmp_path / "away").mkdir()
    linked = out / f".a.hyperseg-{'0' * 8}-aaaaaaaa" / "before" / name
    folder = out / f".toy_video.png.hyperseg-{'0' * 8}-aaaaaaaa" / "before" / "toy_video.png"
    for path in (linked.parent, folder):
        path.mkdir(parents=True)
    linked.symlink_to(tmp_path / "away")
    for path in (linked, linked.parent, linked.parents[1], folder, folder.parent, folder.parents[1]):
        os.utime(path, (1e9, 1e9), follow_symlinks=False)
    with pytest.raises(SystemExit) as ended:
        main([*ON_NOTHING, str(tmp_path), "--out", str(out)])
    assert ended.value.code == 2 and "toy_video.png is a folder, but a file is written there" in capsys.readouterr().err
    assert os.listdir(out) == ["toy_video.png"]


@pytest.mark.slow
def test_benchmarks_of_every_task(micro, run_evaluate, tmp_path):
    names = (
        "toy_absent",
        "toy_reasoning",
        "toy_panoptic",
        "toy_instances",
        "toy_semantic",
        "toy_regions",
        "toy_video",
        "toy_chat",
    )
    scores = run_evaluate(",".join(names), "--limit", "5", "--baselines")
    trivial = json.loads((tmp_path / "out" / "scores.json").read_text())["baselines"]
    assert [name for name, of in trivial.items() if of] == ["toy_panoptic", "toy_semantic", "toy_regions"]
    assert trivial["toy_panoptic"]["nothing"]["pq"] == 0 < trivial["toy_panoptic"]["most_frequent"]["pq"] < 0.2
    keys = ("giou", "giou", "pq", "count", "miou", "miou", "jf", "accuracy")
    assert all(key in scores[name] for name, key in zip(names, keys, strict=True))
    assert all((tmp_path / "out" / f"{name}.png").exists() for name in names if name != "toy_instances")
    with zipfile.ZipFile(tmp_path / "out" / "toy_video" / "submission.zip") as file:
        clips = {tuple(name.split("/")[1:3]) for name in file.namelist()}
        assert len(clips) == 5
        assert set(np.unique(np.asarray(Image.open(io.BytesIO(file.read(file.namelist()[0])))))) <= {0, 255}


@pytest.mark.parametrize(
    ("metric", "told"),
    [("count", "29"), ("count_after_occlusion", "29"), ("j_after_occlusion", "2900.00"), ("noc@85", "29.00")],
)
def test_scores_are_percents_and_counts_are_not(metric, told):
    assert score_text(metric, 29) == told


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--benchmarks", "nope", "--config", "tiny", "--checkpoint", "tiny"], "nope: unknown; choose from refcoco"),
        (["--benchmarks", "refcoco", "--model", "tiny"], "excludes --model"),
        (["--benchmarks", "refcoco", "--config", "tiny"], "requires --config and --checkpoint"),
        ([], "give --model, or --benchmarks"),
        (["--model", "tiny", "--config", "tiny"], "require --benchmarks"),
        (["--model", "tiny", "--baselines"], "--baselines requires --benchmarks"),
        (["--model", "tiny", "--batch-size", "0"], "give at least 1"),
        (
            ["--benchmarks", "refcoco", "--config", "tiny", "--checkpoint", "tiny", "--data-root", "/nowhere"],
            "refcoco_val.json",
        ),
    ],
)
def test_bad_input(more, told, capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", *more])
    assert told in capsys.readouterr().err.replace("\n", " ")
