"""Invalid input gives one line with the cause and the fix, exit code 2, no traceback and no partial files."""

import json
import pathlib
import shlex
import shutil

import numpy as np
import pytest
from PIL import Image

from hyperseg_jax.commands.main import main

MICRO = f"--config {pathlib.Path(__file__).parents[1] / 'micro_config.py'} --config.data.root=world"


@pytest.fixture
def working_folder(tmp_path, zero_model, world, monkeypatch):
    """A working folder with valid and invalid files."""
    monkeypatch.chdir(tmp_path)
    image = next((world / "coco" / "val").iterdir())
    shutil.copy(image, "good.jpg")
    (tmp_path / "cut.jpg").write_bytes(image.read_bytes()[:700])
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "file").write_text("a file")
    (tmp_path / "empty").mkdir()
    (tmp_path / "frames").mkdir()
    shutil.copy(image, "frames/1.jpg")
    (tmp_path / "frames" / "0.jpg").write_bytes(image.read_bytes()[:700])
    (tmp_path / "syntax.py").write_text("def get_config(:")
    (tmp_path / "nothing.py").write_text("x = 1")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "result.json").write_text("{}")
    (tmp_path / "kept" / "thesis.txt").write_text("mine")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "cat_mask.png").write_text("mine")
    (tmp_path / "world").symlink_to(world)
    for name in ("cut_model", "bad_config", "other_config", "list_config", "no_tokenizer", "bad_tokenizer", "odd_config"):
        shutil.copytree(zero_model / "model", name)
    weights = tmp_path / "cut_model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    (tmp_path / "bad_config" / "config.json").write_text('{"system": ')
    (tmp_path / "list_config" / "config.json").write_text("[]")
    config = json.loads((zero_model / "model" / "config.json").read_text())
    odd = config | {"model": config["model"] | {"llm": {"depth": 3}}}
    (tmp_path / "odd_config" / "config.json").write_text(json.dumps(odd))
    config["model"]["num_queries"] = config["model"]["mask_decoder"]["num_queries"] = 7
    (tmp_path / "other_config" / "config.json").write_text(json.dumps(config))
    (tmp_path / "no_tokenizer" / "tokenizer.json").unlink()
    (tmp_path / "bad_tokenizer" / "tokenizer.json").write_text("{}")
    return tmp_path


PREDICT = {
    "missing image": ("none.jpg 'a ring'", "none.jpg", "no such file"),
    "truncated image": ("cut.jpg 'a ring'", "cut.jpg", "cannot be read"),
    "picture on the web": ("https://example.org/a.jpg 'a ring'", "https://example.org/a.jpg", "download the file"),
    "no image": ("text.jpg 'a ring'", "text.jpg", "cannot be read"),
    "truncated frame": ("frames 'a ring'", "frames/0.jpg", "cannot be read"),
    "no frames": ("empty 'a ring'", "empty", "no images here"),
    "empty prompt": ("good.jpg ''", "prompt is empty", "say what to segment"),
    "a prompt of spaces": ("good.jpg '  '", "prompt is empty", "say what to segment"),
    "a prompt of a period": ("good.jpg '.'", "prompt is empty", "say what to segment"),
    "no prompt": ("good.jpg", "give a text", "--classes"),
    "two prompts": ("good.jpg 'a ring' --point 3,3", "exactly one kind of prompt", "a text with regions"),
    "stuff alone": ("good.jpg 'a ring' --stuff grass", "--stuff", "--classes"),
    "classes without names": ("good.jpg --classes ,", "no classes are given", "name at least one"),
    "stuff in frames": ("frames --classes ring --stuff grass", "frames is a video", "remove --stuff"),
    "kind alone": ("good.jpg 'a ring' --kind semantic", "--kind requires", "--classes"),
    "an example without marks": ("good.jpg 'a ring' --example good.jpg", "--example requires", "mark the object"),
    "a mask of nothing": ("good.jpg --mask none.png", "none.png", "check the"),
    "point outside": ("good.jpg --point 9999,3", "--point 9999,3", "not inside the image"),
    "box beside": ("good.jpg --box -9,-9,-3,-3", "--box -9,-9,-3,-3", "has no area inside the image"),
    "box far away": ("good.jpg --box -9e9,-9e9,-3e9,-3e+9", "--box -9e9,-9e9,-3e9,-3e+9", "has no area inside the image"),
    "scribble outside": ("good.jpg --scribble 9990,3,9999,3", "--scribble 9990,3,9999,3", "not inside the image"),
    "scribble of one place": ("good.jpg --scribble 3,3", "--scribble 3,3", "give 4 numbers"),
    "scribble of half a place": ("good.jpg --scribble 3,3,9,9,5", "--scribble 3,3,9,9,5", "give 6 numbers"),
    "scribble of words": ("good.jpg --scribble here,there", "--scribble here,there", "give 4 numbers"),
    "picture in a bucket": ("gs://bucket/a.jpg 'a ring'", "gs://bucket/a.jpg", "copy the files"),
    "model in a bucket": ("good.jpg 'a ring' --model gs://bucket/run", "gs://bucket/run", "copy the files"),
    "out in a bucket": ("good.jpg 'a ring' --out=gs://bucket/out", "gs://bucket/out", "copy the files"),
    "reasoning without a text": ("good.jpg --point 3,3 --reasoning", "--reasoning", "requires a text"),
    "point with an underscore": ("good.jpg --point 1_0,2", "--point 1_0,2", "give 2 numbers"),
    "box in other digits": ("good.jpg --box 1,2,\u0663\u0660,\u0664\u0660", "--box 1,2,", "give 4 numbers"),
    "point of one number": ("good.jpg --point 3", "--point 3", "give 2 numbers"),
    "box without area": ("good.jpg --box 9,9,9,9", "--box 9,9,9,9", "has no area inside the image"),
    "endless text": ("good.jpg '" + "ring " * 10_000 + "'", "letters, and the limit is", "raise limits.letters"),
    "no model": ("good.jpg 'a ring' --model nowhere", "nowhere", "shipped models"),
    "a name beyond all files": (f"good.jpg 'a ring' --model {'x' * 5000}", "xxx ... xxx", "shipped models"),
    "truncated weights": ("good.jpg 'a ring' --model cut_model", "model.safetensors", "another copy"),
    "broken config.json": ("good.jpg 'a ring' --model bad_config", "config.json", "not readable JSON"),
    "config.json of something else": ("good.jpg 'a ring' --model list_config", "config.json", "not a JSON object"),
    "config.json of another version": ("good.jpg 'a ring' --model odd_config", "config.json", "no such field"),
    "weights of another config": ("good.jpg 'a ring' --model other_config", "other_config", "does not match the config"),
    "tokenizer missing": ("good.jpg 'a ring' --model no_tokenizer", "tokenizer.json", "no such file"),
    "tokenizer broken": ("good.jpg 'a ring' --model bad_tokenizer", "tokenizer.json", "has no model"),
    "out below a file": ("good.jpg 'a ring' --out file/x", "--out file/x", "give another folder"),
    "out holds other things": ("good.jpg 'a ring' --out kept", "kept: contains", "give a new folder"),
    "out holds masks of the user": ("good.jpg 'a ring' --out labels", "labels: contains", "give a new folder"),
    "out is here": ("good.jpg 'a ring' --out .", "--out .", "give a"),
    "unknown argument": ("good.jpg 'a ring' --colour red", "--colour", "--help"),
    "config override": ("good.jpg 'a ring' --config.seed=1", "predict", "no --config overrides"),
}
TRAIN = {
    "no such config": ("--config nowhere", "nowhere", "no such file or shipped config; give"),
    "config of bad syntax": ("--config syntax.py", "syntax.py", "SyntaxError"),
    "config without get_config": ("--config nothing.py", "nothing.py", "get_config()"),
    "unknown key": ("--config tiny --config.optimizer.clip_nrm=1", "'clip_nrm'", "did you mean optimizer.clip_norm?"),
    "unknown block": ("--config tiny --config.zzz.x=1", "'zzz'", "known fields: "),
    "wrong type": ("--config tiny --config.train.steps=many", "train.steps=many", "takes int, not str"),
    "a fraction of a step": ("--config tiny --config.train.steps=1.5", "train.steps=1.5", "takes int, not float"),
    "no value": ("--config tiny --config.train.steps", "train.steps", "give a value"),
    "no such mesh": ("--config tiny --config.train.preset=dta", "train.preset = 'dta'", "use auto or one of single, data"),
    "a mesh of another size": (
        "--config tiny --config.train.preset=data_fsdp --config.train.mesh.fsdp=7",
        "data_fsdp",
        "set train.mesh.fsdp",
    ),
    "no such score": ("--config tiny --config.train.best=refering/ciou", "train.best = 'refering/ciou'", "referring"),
    "a score of another name": (
        "--config tiny --config.data.root=world --config.train.best=referring/cio",
        "train.best = 'referring/cio'",
        "did you mean ciou?",
    ),
    "own data without a root": ("--config own_data", "data.tasks.yours.train.folder", "--config.data.root=FOLDER"),
    "two worlds without a root": ("--config tiny_lora", "data.root is empty", "--config.data.root=FOLDER"),
    "clips without a root": ("--config davis_small", "data.root is empty", "--config.data.root=FOLDER"),
    "the published size without a root": (
        "--config hyperseg_3b --config.data.tokenizer=toy --config.data.root=",
        "data.root is empty",
        "--config.data.root=FOLDER",
    ),
    "the published size without data": ("--config hyperseg_3b --config.data.tokenizer=toy", "datasets/", "no such"),
    "a workdir on the web": ("--config tiny --workdir https://example.org/run", "https://example.org/run", "give its path"),
    "a root on the web": ("--config tiny --config.data.root=http://example.org/x", "http://example.org/x", "download the file"),
    "a limit of none": ("--config tiny --config.hosts.barrier=0", "hosts.barrier = 0", "give an integer from 1"),
    "no steps": ("--config tiny --config.train.steps=0", "train.steps = 0", "give an integer from 1"),
    "workdir below a file": ("--config tiny --workdir file/x", "--workdir file/x", "give another folder"),
    "no toy world": ("--config tiny --config.data.root=empty", "empty", "hyperseg data toy"),
    "unknown tokenizer": ("--config tiny --config.data.tokenizer=t.json", "t.json", "no such file"),
    "unknown system": ("--config tiny --config.system=yolo", "'yolo'", "use one of"),
    "a root in a bucket": (f"{MICRO} --config.data.root=gs://bucket/x", "error: gs://bucket/x", "copy the files"),
    "no ratio": (
        f"{MICRO} --config.data.tasks.referring.ratio=0",
        "data.tasks: the ratios are referring 0",
        "at least one above",
    ),
    "heads that do not divide": (
        f"{MICRO} --config.model.llm.num_heads=3",
        "error: model: invalid for system hyperseg",
        "num_heads 3",
    ),
    "parts that do not meet": (
        f"{MICRO} --config.model.mask_decoder.mask_dim=8",
        "error: model: invalid for system",
        "correct",
    ),
    "no precision": (f"{MICRO} --config.model.precision.compute=int8", "error: model: ", "precision.compute = 'int8'"),
    "groups that do not divide": (f"{MICRO} --config.model.pixel_decoder.group_norm_groups=3", "error: model: ", "GroupNorm"),
    "no gate": (f"{MICRO} --config.model.perceiver.gate=x", "error: model: ", "gate = 'x'"),
    "no such points": (f"{MICRO} --config.loss.points=here", "error: loss: invalid for system hyperseg", "points = 'here'"),
    "a rule of other fields": (
        f'{MICRO} \'--config.optimizer.param_groups=({{"patern":"x"}},)\'',
        "optimizer.param_groups: a rule",
        "did you mean",
    ),
}
EVALUATE = {
    "no model": ("--model nowhere", "nowhere", "shipped models"),
    "unknown task": ("--tasks caption", "caption", "use some of referring"),
    "no examples": ("--limit 0", "--limit 0", "give at least 1"),
    "out below a file": ("--limit 1 --out file/x", "--out file/x", "give another folder"),
    "an override of a model": ("--config.data.root=world", "--config.data.root=world", "with --data-root"),
    "benchmarks without a root": (
        "--benchmarks toy_referring,refcoco --config tiny --checkpoint tiny",
        "--benchmarks refcoco: ",
        "give --data-root",
    ),
    "a benchmark of no task": ("--benchmarks toy_chat --config own_data --checkpoint tiny", "toy_chat", "has no task 'chat'"),
    "sizes of no model": (
        f"--benchmarks toy_referring {MICRO} --checkpoint tiny --data-root world --config.model.llm.num_heads=3",
        "error: model: invalid for system hyperseg",
        "num_heads 3",
    ),
}
DATA = {
    "check in a bucket": ("check gqa --root gs://bucket/x", "gs://bucket/x: ", "copy the files"),
    "samples in a bucket": ("samples --out gs://bucket/x", "gs://bucket/x: ", "copy the files"),
    "an option nested too deep": (
        "build refcoco --root world --out built --option prompts_per_example=" + "[" * 20000,
        "--option: the reader of refcoco: prompts_per_example = '[[[",
        "give a whole number",
    ),
    "an option of another kind": (
        "build refcoco --root world --out built --option prompts_per_example=six",
        "--option: the reader of refcoco: prompts_per_example = 'six'",
        "give a whole number",
    ),
}
CASES = [
    pytest.param(verb, *case, id=f"{verb}: {name}")
    for verb, cases in {"predict": PREDICT, "train": TRAIN, "evaluate": EVALUATE, "data": DATA}.items()
    for name, case in cases.items()
]


@pytest.mark.parametrize("verb, line, thing, fix", CASES)
def test_invalid_input_is_one_line(working_folder, zero_model, capsys, verb, line, thing, fix):
    arguments = shlex.split(line)
    if verb == "train" and "--workdir" not in arguments:
        arguments += ["--workdir", "run"]
    elif verb in ("predict", "evaluate") and not {"--model", "--benchmarks"} & {*arguments}:
        arguments += ["--model", str(zero_model)]
    before = sorted(working_folder.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        main([verb, *arguments])
    output = capsys.readouterr().err
    assert ended.value.code == 2
    assert output.startswith("error: ") and thing in output and fix in output and "Traceback" not in output
    assert output.count("\n") == 1 or "other_config" in output, "one line"  # a list of what does not fit follows its line
    assert not set(working_folder.rglob("*")) - set(before), "half-written files"


def test_traceback_option(working_folder):
    with pytest.raises(ValueError, match=r"none\.jpg"):
        main(["predict", "none.jpg", "a ring", "--traceback"])


def test_a_truncated_training_image_stops_the_command(world, trained, tmp_path, capsys):
    root = shutil.copytree(world, tmp_path / "world")
    for path in (root / "coco" / "train").iterdir():
        path.write_bytes(path.read_bytes()[:700])
    shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "30")
    micro = str(pathlib.Path(__file__).parents[1] / "micro_config.py")
    with pytest.raises(SystemExit) as ended:
        main(["train", "--config", micro, "--workdir", str(tmp_path / "run"), f"--config.data.root={root}"])
    output = capsys.readouterr().err
    assert ended.value.code == 2 and "cannot be read as an image" in output and ".jpg" in output


def test_ctrl_c_outside_training_prints_no_traceback(working_folder, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("hyperseg_jax.commands.predict.run", interrupt)
    with pytest.raises(SystemExit) as ended:
        main(["predict", "good.jpg", "a ring"])
    assert ended.value.code == 130 and "stopped" in capsys.readouterr().err


def test_invalid_image_arrays(zero_model):
    import hyperseg_jax
    from hyperseg_jax.errors import UserError

    model = hyperseg_jax.load(zero_model)
    for bad in (np.zeros((8, 8, 3)), np.zeros((8, 8), np.uint8)):
        with pytest.raises(UserError, match="give uint8"):
            model.segment(bad, "a ring")
    image = np.zeros((8, 9, 3), np.uint8)
    with pytest.raises(UserError, match="region 1 has size"):
        model.segment_regions(image, [np.ones((9, 8), bool)])
    with pytest.raises(UserError, match="region 1 is empty"):
        model.segment_regions(image, [np.zeros((8, 9), bool)])
    with pytest.raises(UserError, match="draw at least one"):
        model.segment_regions(Image.fromarray(image), [])
    with pytest.raises(UserError, match="1 labels for 2 regions"):
        model.segment_regions(image, [np.ones((8, 9), bool)] * 2, labels=["a"])
