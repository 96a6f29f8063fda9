"""hyperseg sweep as it is typed, with a training that is quick; and the results that it leaves."""

import functools
import json
import pathlib
import shlex

import pytest
from PIL import Image

from hyperseg_jax.commands import sweep
from hyperseg_jax.commands.main import main
from hyperseg_jax.sweeps.trials import Trial

MICRO = pathlib.Path(__file__).parents[1] / "micro_config.py"
CONFIG = """
import ml_collections
def get_config():
    tasks = {name: {"reader": "toy", "val": {"task": name}} for name in ("referring", "video")}
    tasks["words"] = {"reader": "toy"}
    return ml_collections.ConfigDict({"rate": 1.0, "pause": 0.0, "code": 0, "name": "x", "data": {"tasks": tasks},
                                      "train": {"steps": 20, "eval_every": 5}})
"""


@pytest.fixture
def type_in(tmp_path, monkeypatch, capsys):
    """type_in(options): the exit code, stdout and stderr of hyperseg sweep, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sweep, "Trial", functools.partial(Trial, training="fake_training"))
    pathlib.Path("c.py").write_text(CONFIG)

    def go(options):
        code = 0
        try:
            main(["sweep", "--config", "c.py", "--out", "s", "--config.train.steps=10", *shlex.split(options)])
        except SystemExit as ended:
            code = ended.code
        return code, *capsys.readouterr()

    return go


def test_a_sweep_leaves_a_table_json_and_a_plot(type_in):
    code, shown, _ = type_in("--grid rate=1,3,2 --zip name=a,b pause=0,0.001 --per-trial 1")
    assert code == 0
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in shown.splitlines() if line.startswith("│")]
    assert [row[0] for row in rows] == ["3", "3", "2", "2", "1", "1"], "not sorted by score"
    assert rows[0][3:] == ["30.0000", "30.0000", "10", "10", "finished"]
    found = json.loads(pathlib.Path("s/results.json").read_text())
    assert found["metric"] == "referring/ciou" and len(found["trials"]) == 6
    assert found["trials"][0]["scores"] == [[5, 15.0], [10, 30.0]] and found["trials"][0]["values"]["rate"] == "3"
    with Image.open("s/results.png") as image:
        assert image.size[0] > 1000 and image.size[1] > 600  # four panels: steps, and three fields
        assert len(image.convert("RGB").resize((300, 200)).getcolors(60000)) > 30

    code, shown, told = type_in("--grid rate=1,3,2 --zip name=a,b pause=0,0.001 --metric train/loss")
    assert code == 0 and "6 of 6 trials are already done" in told and "best (min)" in shown
    found = json.loads(pathlib.Path("s/results.json").read_text())["trials"]
    assert [trial["last"] for trial in found] == sorted(trial["last"] for trial in found)


def test_a_dry_run_prints_the_commands_and_does_nothing(type_in):
    code, shown, _ = type_in("--grid rate=1,3 --chain --grid 'name=a b' --dry-run")
    assert code == 0 and not pathlib.Path("s").exists()
    commands = [shlex.split(line) for line in shown.splitlines()]
    assert [command[-1] for command in commands] == ["--config.rate=1", "--config.rate=3", "--config.name=a b"]
    assert all(command[4] == str(pathlib.Path("c.py").absolute()) for command in commands)


def test_a_metric_that_never_appears_names_those_that_do(type_in):
    """One that a validation could have had."""
    code, _, told = type_in("--grid rate=1 --metric referring/absent_accuracy")
    assert code == 2 and "--metric referring/absent_accuracy: never appears" in told and "referring/ciou, train/loss" in told
    assert type_in("--grid rate=1 --metric referring/ciou")[0] == 0


def test_failed_trials_are_in_the_table_and_in_the_exit_code(type_in):
    code, shown, told = type_in("--grid rate=1,-1")
    assert code == 2 and "1 of 2 trials failed (rate is negative; see " in told and "failed" in shown and "10.0000" in shown


def test_a_folder_of_another_config_is_refused(type_in):
    assert type_in("--grid rate=1")[0] == 0
    code, _, told = type_in("--grid rate=1 --config.train.steps=30")
    assert code == 2 and "contains a sweep of another config (train.steps: 10 there, 30 here)" in told
    assert type_in("--grid rate=1,2")[0] == 0, "more trials are welcome"
    pathlib.Path("s/sweep.json").write_text("[]")
    code, _, told = type_in("--grid rate=1")
    assert code == 2 and "s/sweep.json: its content is not a JSON object; give another --out" in told


@pytest.mark.parametrize("name", ["ray", "trials"])
def test_a_folder_that_is_a_link_out_is_not_written_into(type_in, tmp_path, name):
    for folder in ("s", "away"):
        (tmp_path / folder).mkdir()
    (tmp_path / "s" / name).symlink_to(tmp_path / "away")
    code, _, told = type_in("--grid rate=1")
    assert code == 2 and f"s: {name} is a link that leaves s; " in told and not any((tmp_path / "away").iterdir())


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
                "has no task chat; it has referring, video",
            ),
        ),
        ("--grid rate=1 --metric referring/cio", ("--metric referring/cio", "no score 'cio'; did you mean ciou?", "giou")),
        ("--grid rate=1 --metric video/ciou", ("--metric video/ciou", "no score 'ciou'", "known scores: j, f, jf, count")),
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
                "--per-trial 1",
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
def test_bad_input_is_named_before_anything_starts(type_in, options, words):
    code, _, told = type_in(options)
    assert code == 2 and all(word in told for word in words), told
    assert not list(pathlib.Path("s").glob("trials/*"))


def test_a_number_of_training_lines_is_looked_for_in_the_losses_of_the_system(world, tmp_path, capsys):
    line = ["sweep", "--config", str(MICRO), f"--config.data.root={world}", "--out", str(tmp_path / "s"), "--grid", "seed=0"]
    with pytest.raises(SystemExit) as ended:
        main([*line, "--metric", "train/mas"])
    told = capsys.readouterr().err
    assert ended.value.code == 2 and "--metric train/mas: no score 'mas'; did you mean mask?" in told
    assert not (tmp_path / "s").exists()


def test_records_that_are_no_toys_are_asked_for_the_kind_of_their_prompts(type_in, tmp_path):
    """Before anything starts on this machine; for other machines the scores of all kinds are known."""
    text = CONFIG.replace('"toy", "val": {"task": name}', '"folder", "val": {"folder": "{root}", "split": "val"}')
    text = text.replace('{"tasks": tasks}', '{"tasks": tasks, "root": "yours"}')
    assert text != CONFIG
    pathlib.Path("c.py").write_text(text)
    code, _, told = type_in("--grid rate=1 --metric referring/ciou")
    assert code == 2 and "yours" in told and not pathlib.Path("s").exists(), "the data is not there"
    pathlib.Path("yours").mkdir()
    Image.new("RGB", (8, 8)).save("yours/a.png")
    Image.new("L", (8, 8), 255).save("yours/mask.png")
    line = {"image": "a.png", "text": "a thing", "mask": "mask.png", "split": "val"}
    pathlib.Path("yours/captions.jsonl").write_text(json.dumps(line) + "\n")
    code, _, told = type_in("--grid rate=1 --metric referring/jf")
    assert code == 2 and "no score 'jf'" in told and "ciou" in told
    assert type_in("--grid rate=1 --metric referring/ciou")[0] == 0
