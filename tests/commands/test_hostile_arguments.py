"""Invalid command line values give one line and exit code 2 before any work; internal errors are reported as such."""

import contextlib
import io
import pathlib

import fuzz
import hypothesis.strategies as st
import pytest
from PIL import Image
from rich.console import Console

from hyperseg_jax import config as configs
from hyperseg_jax.commands import evaluate, predict, train
from hyperseg_jax.commands.main import main
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import limits, printing
from hyperseg_jax.untrusted.bad_file import converting_exceptions


class Panic(BaseException):
    """Like panics of native code, which are not Exceptions."""


def run_command(*arguments):
    """Runs a command; returns (exit code, standard error)."""
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        try:
            main(arguments)
            code = 0
        except SystemExit as error:
            code = error.code
    return code, err.getvalue()


OVERRIDES = {
    "train.steps=None": "takes int, not None",
    "data.tasks={}": "is empty; add at least one task",
    "train={}": "lacks average",
    "model=None": "is a block",
    "data.image_size=0": "from 1 to",
    "data.buckets=[]": "a list of 1 or more",
    "seed=-1": "from 0 to",
    "seed=2**70": "takes int, not str",
    f"seed={2**70}": "give an integer from",
    "data.tasks.referring.ratio=-1": "from 0 to",
    "data.tasks.referring=3": "is a block",
    "data.tasks={1:2}": "data.tasks: 1 is not a valid field name",
    "data.augment={'__class__':None}": "data.augment: '__class__' is not a valid field name",
    "data.tasks={'a':3}": "data.tasks.a = 3",
    "data.augment={'a':3}": "give a task and a block",
    "optimizer.learning_rate=1e999": "give a number from",
    "optimizer.betas=(1,)": "a list of 2 values",
    "model.llm.num_layers=1000000000": "from 1 to",
    "model.lora={'rank':8}": "lacks alpha",
    "init_optional=('(',)": "give a regular expression",
    "limits.pixels=-1": "limits: pixels",
    "limits.pixel=1": "did you mean limits.pixels",
    "data.buckets=" + "[" * 5000: "takes tuple",
    "data.horizontal_flip=" + "-" * 5000 + "1": "",
    # Python converts no integer with so many digits to a text
    f"train.steps={2**20000:#x}": "train.steps = an integer of 20001 bits: give an integer from",
    f"limits.pixels={2**20000:#x}": "limits.pixels = an integer of",
    f"data.tasks.panoptic.train.max_classes={2**20000:#x}": "max_classes = an integer of",
    f"data.augment={{'panoptic':{{'scale':({2**20000:#x},1)}}}}": "panoptic.scale.0 = an integer of",
    "data.root=\x1b[31m\ud800[/]": "",
}


def test_one_text_stands_for_a_tuple_of_texts():
    field = "data.tasks.referring.train.json_path"
    block = configs.load("instructseg_3b", [f"{field}={{root}}/x.json"]).data.tasks.referring.train
    assert block.json_path == ("{root}/x.json",)
    for text in ("(a,b)", "[a]", "3"):
        with pytest.raises(UserError, match="the field takes tuple, not"):
            configs.load("instructseg_3b", [f"{field}={text}"])


@pytest.mark.parametrize("text", OVERRIDES)
def test_invalid_overrides_are_refused(tmp_path, text):
    code, messages = run_command("train", "--config", "tiny", "--workdir", str(tmp_path / "w"), f"--config.{text}")
    assert code == 2 and messages.startswith("error: ") and messages.count("\n") == 1 and messages[:-1].isprintable()
    assert OVERRIDES[text] in messages and not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "--config", "tiny", "--workdir", "http://host/x"), "web addresses are not supported"),
        (("train", "--config", "tiny", "--workdir", "ftp://host/x"), "is not a supported bucket URL"),
        (("train", "--config", "tiny", "--workdir", "zip://x::file:///etc/passwd"), "is not a supported bucket URL"),
        (("predict", "x.jpg", "a ring", "--out", "a\0b"), "contains a NUL"),
        (("predict", "x.jpg", "a ring", "--out", "a\ud800"), r"a\ud800: contains a lone surrogate; remove it"),
        (("data", "samples", "--out", "\ud800"), "contains a lone surrogate"),
        (("predict", "x.jpg", "a ring", "--out", ""), "--out: is empty; give a folder"),
        (("train", "--config", "none.py", "--workdir="), "--workdir: is empty; give a folder"),
        (("predict", "x.jpg", "a ring", "--limits", "pixels=0"), "--limits: pixels"),
        (("predict", "x.jpg", "a ring", "--limits=pixel=9"), "there is no limit 'pixel'"),
        (("predict", "x.jpg", "a ring", "--limits", "pixels=" + "[" * 3000), "--limits: pixels"),
        (("predict", "x.jpg", "a ring", "--limit", "pixels=9"), "unknown argument --limit"),
        (("predict", "x.jpg", "a ring", "--limits", "pixels={[]:1}"), "--limits: pixels"),
        (("predict", "x.jpg", "a ring", "--limits", "seconds=1" + "0" * 400), "--limits: seconds"),
        (("predict", "x.jpg", "a ring", "--limits", "seconds=-1" + "0" * 400), "--limits: seconds"),
        (("train", "--config", "tiny", "--workdir", "w", "--config.seed={[]:1}"), "--config.seed={[]:1}: the field takes int"),
        (("evaluate", "--model", "tiny", "--limits", "5"), "--limits 5: give NAME=VALUE"),
        (("train", "--config", "tiny", "--workdir", "w", "--limits"), "--limits : give NAME=VALUE"),
        (("predict", "x.jpg", "a caf\udce9"), "has bytes that are not text in UTF-8; write it in UTF-8"),
        (("predict", "x.jpg", "--text", "\udcff"), "has bytes that are not text"),
        (("predict", "x.jpg", "--classes", "dog", "--stuff", "\udc80"), "has bytes that are not text"),
        (("predict", "\x1b[31m\udc80[red].jpg", "a ring"), r"\x1b[31m\udc80[red].jpg: no such file"),
    ],
)
def test_invalid_arguments(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, messages = run_command(*arguments)
    assert code == 2 and messages.count("\n") == 1 and messages[:-1].isprintable() and words in messages
    assert not list(tmp_path.iterdir())


NUMBERS = [
    ("quickstart", "--steps", "-1", "give zero or more"),
    ("quickstart", "--images", "-1", "give zero or more"),
    ("data toy --out o", "--seed", "-1", "give zero or more"),
    ("data toy --out o", "--clips", "-1", "give zero or more"),
    ("data check refcoco --root .", "--show", "-1", "give zero or more"),
    ("data build refcoco --root . --out o", "--workers", "9" * 30, "give at most 2147483647"),
    ("data build refcoco --root . --out o", "--workers", "9" * 400, "give at most 2147483647"),
    ("data build refcoco --root . --out o", "--workers", "-" + "9" * 400, "give zero or more"),
    ("data build refcoco --root . --out o", "--shard-size", "-1", "give zero or more"),
    ("data build refcoco --root . --out o", "--long-edge", "-1", "give zero or more"),
    ("evaluate --model tiny", "--limit", "-1", "give zero or more"),
    ("evaluate --model tiny", "--batch-size", "-1", "give zero or more"),
    ("evaluate --model tiny", "--process-id", "-1", "give zero or more"),
    ("train --config tiny --workdir o", "--processes", "9" * 30, "give at most 2147483647"),
    ("export-weights o", "--step", "-1", "give zero or more"),
    ("sweep --config tiny --grid seed=1", "--per-trial", "-1", "give zero or more"),
    ("sweep --config tiny --grid seed=1 --backend ray", "--asha", "-1", "give zero or more"),
    *(
        ("sweep --config tiny --grid seed=1 --backend ray --asha 1", "--asha-factor", text, fix)
        for text, fix in (
            ("nan", "give a finite number"),
            ("inf", "give a finite number"),
            ("-inf", "give zero or more"),
            ("1e300", "give at most 2147483647"),
            ("1", "give more than 1"),
        )
    ),
]


@pytest.mark.parametrize(("command", "option", "text", "fix"), NUMBERS)
def test_numbers_that_no_option_takes(tmp_path, monkeypatch, command, option, text, fix):
    monkeypatch.chdir(tmp_path)
    value = printing.escaped(str(float(text)) if option == "--asha-factor" else text)
    assert run_command(*command.split(), f"{option}={text}") == (2, f"error: {option} {value}: {fix}\n")
    assert not list(tmp_path.iterdir())


BUCKETS = [
    "train --config tiny --workdir URL",
    "export-weights URL --format model --out o",
    "sweep --config tiny --grid seed=1 --workdirs URL",
    "import-weights URL --config tiny --out o",
    "data check built --root URL",
]


@pytest.mark.parametrize("command", BUCKETS)
def test_buckets_without_their_package(tmp_path, monkeypatch, command):
    import fsspec

    def missing(*_, **__):
        raise ImportError("Please install gcsfs")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    monkeypatch.chdir(tmp_path)
    message = "error: gs://b/x: needs support for gs:// (Please install gcsfs); pip install 'hyperseg-jax[cloud]'\n"
    assert run_command(*command.replace("URL", "gs://b/x").split()) == (2, message)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", BUCKETS[:3])
def test_other_spellings_of_workdirs(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    code, messages = run_command(*command.replace("URL", "abfs://b/x").split())
    assert (code, messages) == (2, "error: abfs://b/x: workdirs cannot be named with abfs://; write az://b/x\n")


def test_dry_runs_need_no_bucket(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = "sweep --config tiny --grid seed=1 --metric train/loss --workdirs gs://b/x --dry-run"
    assert run_command(*line.split()) == (0, "")


def test_limits_apply_during_a_command(monkeypatch):
    recorded = []
    monkeypatch.setattr(predict, "run", lambda parsed: recorded.append(limits.current()))
    assert run_command("predict", "x", "y", "--limits", "pixels=1000", "--limits=seconds=2", "--limits", "outside=True") == (
        0,
        "",
    )
    assert recorded == [limits.Limits(pixels=1000, seconds=2.0, outside=True)] and limits.current() == limits.Limits()


def test_the_limit_option_of_examples(monkeypatch):
    recorded = []
    monkeypatch.setattr(evaluate, "run", recorded.append)
    assert run_command("evaluate", "--model", "tiny", "--limit", "5", "--limits", "pixels=1000") == (0, "")
    assert recorded[0].limit == 5 and recorded[0].limits == {"pixels": 1000}


def test_training_uses_the_limits_of_its_config(monkeypatch):
    recorded = []
    monkeypatch.setattr(train, "run", recorded.append)
    assert run_command("train", "--config", "tiny", "--workdir", "w", "--limits", "pixels=1000", "--limits=outside=True") == (
        0,
        "",
    )
    config = configs.load("tiny", recorded[0].overrides)
    assert limits.from_fields(config.limits, "limits") == limits.Limits(pixels=1000, outside=True)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("two\nlines"),
        RecursionError(),
        UnicodeEncodeError("utf-8", "\ud800", 0, 1, "x"),
        Panic("\x1b"),
    ],
)
def test_internal_errors_are_reported_as_such(monkeypatch, error):
    def fail(parsed):
        raise error

    monkeypatch.setattr(predict, "run", fail)
    code, messages = run_command("predict", "x", "y")
    assert code == 1 and messages.startswith("error: internal error of hyperseg") and "--traceback" in messages
    assert type(error).__name__ in messages and messages.count("\n") == 1 and messages[:-1].isprintable()
    with pytest.raises(type(error)):
        main(["predict", "x", "y", "--traceback"])


def test_panics_become_bad_files_and_stops_do_not():
    with pytest.raises(Exception, match=r"is not a tokenizer .wrong"), converting_exceptions("is not a tokenizer"):
        raise Panic("wrong\nhere")
    with pytest.raises(KeyboardInterrupt), converting_exceptions("x"):
        raise KeyboardInterrupt


NAMES = {
    "a split of a build": ("data check built --root R --split nope", "R/val\nerror: fake/build.json"),
    "a frame": ("predict R red --out R/o", "R/" + "x" * 100 + "\nerror: fake" + "y" * 130 + ".png"),
    "an input": ("predict R/a\nerror:fake red --out o", ""),
    "an argument": ("predict R red --out o --a\nb", ""),
}


@pytest.mark.parametrize("case", NAMES)
def test_names_in_messages_add_no_lines(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    command, file = NAMES[case]
    if file:
        pathlib.Path(file).parent.mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(file) if file.endswith(".png") else pathlib.Path(file).write_text("{}")
    code, output = run_command(*command.split(" "))
    assert code == 2 and output.count("\n") == 1 and output.startswith("error: ") and "\\n" in output, output


def test_names_are_printed_without_markup():
    console = Console(file=io.StringIO(), width=200)
    for text in ("[red]a[/] [/b]", "\x1b[31m", "\ud800", "a\nb", "\u202e"):
        printing.log(console, text)
        console.print(printing.escape_markup(text))
    messages = console.file.getvalue().split("\n")
    assert messages[:2] == ["[red]a[/] [/b]"] * 2 and messages[2:4] == [r"\x1b[31m"] * 2 and messages[4:6] == [r"\ud800"] * 2
    assert messages[6:8] == [r"a\nb"] * 2 and messages[8] == r"\u202e"


def check_override(key, value):
    """Returns the property of any override: a complete config or a one-line error."""
    text = f"{key}={value}"
    result = fuzz.check_call(lambda: configs.load("tiny", [text]))
    if not isinstance(result, UserError):
        fuzz.check_call(lambda: limits.from_fields(result.limits, "limits"))


def _keys(block, path=""):
    for name, value in block.items():
        yield f"{path}{name}"
        if isinstance(value, dict):
            yield from _keys(value, f"{path}{name}.")


KEYS = st.sampled_from(sorted(_keys(configs.known_fields("hyperseg")))) | st.text(max_size=10)
DEEP = ("(" * 300, "[" * 3000, "-" * 3000 + "1", "1e999")
VALUES = st.one_of(fuzz.VALUES.map(repr), st.text(max_size=20), st.sampled_from(DEEP))


def test_random_overrides():
    fuzz.run_property(check_override, KEYS, VALUES, examples=150)


@pytest.mark.slow
def test_random_overrides_for_long(run_property_long):
    run_property_long(check_override, KEYS, VALUES)


@pytest.mark.parametrize("name", ["data", "fine_tuned", "data/known", "data/new"])
def test_quickstart_does_not_follow_links(tmp_path, capsys, name):
    (tmp_path / "away").mkdir()
    (tmp_path / "out" / name).parent.mkdir(parents=True)
    (tmp_path / "out" / name).symlink_to(tmp_path / "away")
    with pytest.raises(SystemExit) as ended:
        main(["quickstart", "--out", str(tmp_path / "out")])
    assert ended.value.code == 2 and f"out: {name} is a link that leaves" in " ".join(capsys.readouterr().err.split())
    assert not list((tmp_path / "away").iterdir())


def test_quickstart_with_an_unusable_folder(tmp_path, capsys):
    (tmp_path / "file").touch()
    (tmp_path / "folder" / "index.html").mkdir(parents=True)
    for out, problem in (("file", "file: not a folder; give"), ("folder", "index.html: a folder, and the report")):
        with pytest.raises(SystemExit) as ended:
            main(["quickstart", "--out", str(tmp_path / out)])
        assert ended.value.code == 2 and problem in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("arguments", [["--images", "0"], ["--images", "1"]])
def test_quickstart_with_too_small_values(tmp_path, capsys, arguments):
    with pytest.raises(SystemExit) as ended:
        main(["quickstart", "--out", str(tmp_path / "out"), *arguments])
    assert ended.value.code == 2 and "give at least 4" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("arguments", [["--pictures", "8"], ["--pictures=8"]])
def test_old_flags_are_reported_with_the_new_name(tmp_path, capsys, arguments):
    with pytest.raises(SystemExit) as ended:
        main(["quickstart", "--out", str(tmp_path / "out"), *arguments])
    assert ended.value.code == 2 and "was renamed to --images; use --images" in " ".join(capsys.readouterr().err.split())
