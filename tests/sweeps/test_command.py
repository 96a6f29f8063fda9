"""The command `hyperseg sweep` with a fast training, and its results."""

import functools
import json
import os
import pathlib
import shlex

import pytest
from PIL import Image

from hyperseg_jax import renamed_fields
from hyperseg_jax.commands import sweep
from hyperseg_jax.commands.main import main
from hyperseg_jax.errors import UserError
from hyperseg_jax.sweeps import results
from hyperseg_jax.sweeps.trials import Trial

MICRO = pathlib.Path(__file__).parents[1] / "micro_config.py"
CONFIG = """
import ml_collections
def get_config():
    tasks = {name: {"reader": "toy", "val": {"task": name}} for name in ("referring", "video")}
    tasks["words"] = {"reader": "toy"}
    return ml_collections.ConfigDict({"system": "hyperseg", "rate": 1.0, "pause": 0.0, "code": 0, "name": "x",
                                      "data": {"tasks": tasks}, "train": {"steps": 20, "eval_every": 5}})
"""


@pytest.fixture
def run_sweep(tmp_path, monkeypatch, capsys):
    """run_sweep(options): runs hyperseg sweep in a temporary folder; returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sweep, "Trial", functools.partial(Trial, training="fake_training"))
    pathlib.Path("c.py").write_text(CONFIG)

    def run(options):
        code = 0
        try:
            main(["sweep", "--config", "c.py", "--out", "s", "--config.train.steps=10", *shlex.split(options)])
        except SystemExit as ended:
            code = ended.code
        return code, *capsys.readouterr()

    return run


def test_outputs_of_a_sweep(run_sweep):
    code, output, _ = run_sweep("--grid rate=1,3,2 --zip name=a,b pause=0,0.001 --per-trial 1")
    assert code == 0
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in output.splitlines() if line.startswith("│")]
    assert [row[0] for row in rows] == ["3", "3", "2", "2", "1", "1"], "not sorted by score"
    assert rows[0][3:] == ["30.0000", "30.0000", "10", "10", "finished"]
    result = json.loads(pathlib.Path("s/results.json").read_text())
    assert result["metric"] == "referring/ciou" and len(result["trials"]) == 6
    assert result["trials"][0]["scores"] == [[5, 15.0], [10, 30.0]] and result["trials"][0]["values"]["rate"] == "3"
    with Image.open("s/results.png") as image:
        assert image.size[0] > 1000 and image.size[1] > 600  # four panels: steps, and three fields
        assert len(image.convert("RGB").resize((300, 200)).getcolors(60000)) > 30

    code, output, messages = run_sweep("--grid rate=1,3,2 --zip name=a,b pause=0,0.001 --metric train/loss")
    assert code == 0 and "6 of 6 trials are already done" in messages and "best (min)" in output
    result = json.loads(pathlib.Path("s/results.json").read_text())["trials"]
    assert [trial["last"] for trial in result] == sorted(trial["last"] for trial in result)


def test_a_failed_plot_does_not_end_a_sweep(run_sweep, monkeypatch):
    """It is drawn after hours of training, and the scores are more important."""

    def fail(*args, **options):
        raise UserError("odd values")

    monkeypatch.setattr(results, "saved_panels", fail)
    code, output, messages = run_sweep("--grid rate=1")
    assert code == 0 and "odd values" in messages and "30.0000" not in output and "10.0000" in output
    assert pathlib.Path("s/results.json").is_file()


def test_a_dry_run_only_prints_the_commands(run_sweep):
    code, output, _ = run_sweep("--grid rate=1,3 --chain --grid 'name=a b' --dry-run")
    assert code == 0 and not pathlib.Path("s").exists()
    commands = [shlex.split(line) for line in output.splitlines()]
    assert [command[-1] for command in commands] == ["--config.rate=1", "--config.rate=3", "--config.name=a b"]
    assert all(command[4] == str(pathlib.Path("c.py").absolute()) for command in commands)


def test_missing_metrics_are_reported_with_the_available_ones(run_sweep):
    """A metric that a validation could report."""
    code, _, messages = run_sweep("--grid rate=1 --metric referring/absent_accuracy")
    assert (
        code == 2
        and "--metric referring/absent_accuracy: never appears" in messages
        and "referring/ciou, train/loss" in messages
    )
    assert run_sweep("--grid rate=1 --metric referring/ciou")[0] == 0


def test_failed_trials_are_reported(run_sweep):
    code, output, messages = run_sweep("--grid rate=1,-1")
    assert (
        code == 2 and "1 of 2 trials failed (rate is negative; see " in messages and "failed" in output and "10.0000" in output
    )


def test_a_folder_of_another_config_is_refused(run_sweep, monkeypatch):
    assert run_sweep("--grid rate=1")[0] == 0
    code, _, messages = run_sweep("--grid rate=1 --config.train.steps=30")
    assert code == 2 and "contains a sweep of another config (train.steps: 10 saved, 30 given)" in messages
    assert run_sweep("--grid rate=1,2")[0] == 0, "more trials are welcome"
    record = pathlib.Path("s/sweep.json")
    record.write_text(record.read_text().replace('"rate"', '"speed"'))  # written by an earlier version
    assert run_sweep("--grid rate=1")[0] == 2
    record.write_text(record.read_text().replace('"rate"', '"speed"'))
    monkeypatch.setattr(renamed_fields, "FIELDS", {"speed": "rate"})
    assert run_sweep("--grid rate=1")[0] == 0
    pathlib.Path("s/sweep.json").write_text("[]")
    code, _, messages = run_sweep("--grid rate=1")
    assert code == 2 and "s/sweep.json: its content is not a JSON object; give another --out" in messages


@pytest.mark.parametrize("name", ["ray", "trials"])
def test_linked_folders_are_not_written(run_sweep, tmp_path, name):
    for folder in ("s", "away"):
        (tmp_path / folder).mkdir()
    (tmp_path / "s" / name).symlink_to(tmp_path / "away")
    code, _, messages = run_sweep("--grid rate=1")
    assert code == 2 and f"s: {name} is a link that leaves s; " in messages and not any((tmp_path / "away").iterdir())


@pytest.mark.parametrize("folder", ["s", "s/trials", "runs"])
@pytest.mark.parametrize("right_name", [True, False])
def test_planted_links_are_not_restored(run_sweep, tmp_path, folder, right_name):
    """A temporary folder of a killed run, from someone else, with a link of the name of a trial or folder."""
    options = "--grid rate=1" + (" --workdirs runs" if folder == "runs" else "")
    name = "ray"
    if folder != "s":
        name = run_sweep(f"{options} --dry-run")[1].split("--workdir ")[1].split()[0].rpartition("/")[2]
    (tmp_path / "away").mkdir()
    before = tmp_path / folder / f".{name if right_name else 'a'}.hyperseg-{'0' * 8}-aaaaaaaa" / "before"
    before.mkdir(parents=True)
    (before / name).symlink_to(tmp_path / "away")
    for path in (before / name, before, before.parent):
        os.utime(path, (1e9, 1e9), follow_symlinks=False)
    assert run_sweep(options)[0] == 0
    assert not any((tmp_path / "away").iterdir()) and not (tmp_path / folder / name).is_symlink()


def test_a_restored_folder_is_checked_for_links(run_sweep, tmp_path):
    name = run_sweep("--grid rate=1 --dry-run")[1].split("--workdir ")[1].split()[0].rpartition("/")[2]
    (tmp_path / "away").mkdir()
    before = tmp_path / "s" / f".trials.hyperseg-{'0' * 8}-aaaaaaaa" / "before"
    (before / "trials").mkdir(parents=True)
    (before / "trials" / name).symlink_to(tmp_path / "away")
    for path in (before / "trials" / name, before / "trials", before, before.parent):
        os.utime(path, (1e9, 1e9), follow_symlinks=False)
    code, _, messages = run_sweep("--grid rate=1")
    assert code == 2 and f"{name} is a link that leaves s/trials; " in messages and not any((tmp_path / "away").iterdir())


@pytest.mark.parametrize("absolute", [True, False])
def test_linked_workdirs_are_not_written(run_sweep, tmp_path, absolute):
    for folder in ("runs", "away"):
        (tmp_path / folder).mkdir()
    workdirs = tmp_path / "runs" if absolute else "runs"
    name = run_sweep(f"--grid rate=1 --dry-run --workdirs {workdirs}")[1].split("--workdir ")[1].split()[0].rpartition("/")[2]
    (tmp_path / "runs" / name).symlink_to(tmp_path / "away")
    code, _, messages = run_sweep(f"--grid rate=1 --workdirs {workdirs}")
    assert code == 2 and f"--workdirs {workdirs}: {name} is a link that leaves {workdirs}; " in messages, messages
    assert not any((tmp_path / "away").iterdir()) and not (tmp_path / "s").exists()
    (tmp_path / "runs" / name).unlink()
    (tmp_path / "linked").symlink_to("runs")  # the folder itself is named by the user
    assert run_sweep("--grid rate=1 --workdirs linked")[0] == 0 and (tmp_path / "runs" / name).is_dir()


@pytest.mark.parametrize(
    "options, words",
    [
        (
            "--grid rat=1,2",
            (
                "--config.rat",
                "did you mean rate",
            ),
        ),
        (
            "--grid rate=1,fast",
            (
                "--config.rate=fast",
                "takes float, not str",
            ),
        ),
        (
            "--grid rate=1 --grid train.stepz=4",
            (
                "--config.train.stepz",
                "did you mean train.steps",
            ),
        ),
        (
            "--grid rate=1 --zip name=a,b pause=1",
            (
                "--zip",
                "the same number of values",
            ),
        ),
        ("", ("give fields to vary",)),
        (
            "--grid rate=1 --metric chat/ciou",
            (
                "--metric chat/ciou",
                "has no task chat; use one of referring, video",
            ),
        ),
        ("--grid rate=1 --metric referring/cio", ("--metric referring/cio", "no score 'cio'; did you mean ciou?", "giou")),
        ("--grid rate=1 --metric video/ciou", ("--metric video/ciou", "no score 'ciou'", "use one of j, f, jf, count")),
        ("--grid rate=1 --metric words/ciou", ("--metric words/ciou", "data.tasks.words has no validation records")),
        (
            "--grid rate=1 --asha",
            (
                "--asha",
                "local has no early stopping",
                "--backend ray",
            ),
        ),
        (
            "--grid rate=1 --per-trial 0",
            (
                "--per-trial 0",
                "give at least 1",
            ),
        ),
        (
            "--grid rate=1 --per-trial 9999",
            (
                "--per-trial 9999",
                "this machine has",
            ),
        ),
        (
            "--grid rate=1 --backend slurm --per-trial 1",
            (
                "--per-trial",
                "a trial is a job",
            ),
        ),
        ('--grid rate=1 --backend slurm --launch="\'"', ("--launch '", "correct the quotes")),
        ("--grid rate=1 --launch='--time 1:00'", ("--launch", "uses no launch script")),
        (
            "--grid rate=1 --resubmit",
            (
                "--resubmit",
                "resumes by itself",
            ),
        ),
        (
            "--grid rate=1 --out c.py/x",
            (
                "--out c.py/x",
                "give another folder",
            ),
        ),
    ],
)
def test_invalid_input_is_rejected_before_the_start(run_sweep, options, words):
    code, _, messages = run_sweep(options)
    assert code == 2 and all(word in messages for word in words), messages
    assert not list(pathlib.Path("s").glob("trials/*"))


def test_training_metrics_are_checked_against_the_losses(world, tmp_path, capsys):
    line = ["sweep", "--config", str(MICRO), f"--config.data.root={world}", "--out", str(tmp_path / "s"), "--grid", "seed=0"]
    with pytest.raises(SystemExit) as ended:
        main([*line, "--metric", "train/mas"])
    messages = capsys.readouterr().err
    assert ended.value.code == 2 and "--metric train/mas: no score 'mas'; did you mean mask?" in messages
    assert not (tmp_path / "s").exists()


def test_metrics_of_user_data_are_checked_by_task(run_sweep, tmp_path):
    """Checked before local trials start; for other machines the scores of all tasks are allowed."""
    text = CONFIG.replace('"toy", "val": {"task": name}', '"folder", "val": {"folder": "{root}", "split": "val"}')
    text = text.replace('{"tasks": tasks}', '{"tasks": tasks, "root": "yours"}')
    assert text != CONFIG
    pathlib.Path("c.py").write_text(text)
    code, _, messages = run_sweep("--grid rate=1 --metric referring/ciou")
    assert code == 2 and "yours" in messages and not pathlib.Path("s").exists(), "the data is not there"
    pathlib.Path("yours").mkdir()
    Image.new("RGB", (8, 8)).save("yours/a.png")
    Image.new("L", (8, 8), 255).save("yours/mask.png")
    line = {"image": "a.png", "text": "a thing", "mask": "mask.png", "split": "val"}
    pathlib.Path("yours/captions.jsonl").write_text(json.dumps(line) + "\n")
    code, _, messages = run_sweep("--grid rate=1 --metric referring/jf")
    assert code == 2 and "no score 'jf'" in messages and "ciou" in messages
    assert run_sweep("--grid rate=1 --metric referring/ciou")[0] == 0
