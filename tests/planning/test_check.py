"""`hyperseg train --check`: all shipped configs pass on samples; everything that is wrong is listed at once."""

import contextlib
import json
import pathlib
import re
import shlex
import shutil

import numpy as np
import ofa_dictionary
import pytest
from PIL import Image
from real_vocabulary import write_clip, write_gpt2, write_phi2
from rich.console import Console
from run_check import run_check

from hyperseg_jax import config as configs
from hyperseg_jax import toy
from hyperseg_jax.commands.main import main
from hyperseg_jax.data import sources
from hyperseg_jax.errors import UserError
from hyperseg_jax.planning import check, devices
from hyperseg_jax.systems import system as systems
from hyperseg_jax.text.tokenizer import Tokenizer
from hyperseg_jax.toy.samples import write_samples
from hyperseg_jax.training.loop import train

LARGE = ("hyperseg_3b", "hyperseg_3b_full", "hyperseg_3b_lora", "hyperseg_3b_released", "instructseg_3b")
CHECKOUT = pathlib.Path(__file__).parents[2]
SEEM = ("seem_davitd3", "seem_davitd5", "seem_focall", "seem_focalt", "seem_samvitb", "seem_samvitl")
SMALL = (
    "own_data",
    "davis_small",
    "ifseg_tiny",
    "ifseg_tiny_captions",
    "instructseg_tiny",
    "sca_tiny",
    "sca_tiny_weak",
    "seem_own_classes",
    "seem_tiny",
    "tiny",
    "tiny_entities",
    "tiny_instances",
    "tiny_video",
    "tiny_lora",
)
QUICK = ("davis_small", "hyperseg_3b_lora", "own_data", "tiny", "tiny_lora")
SCA = ("sca_gpt2_large", "sca_gpt2_large_weak", "sca_llama_3b")
IFSEG = ("ifseg_base", "ifseg_base:coco_stuff", "ifseg_base:coco_unseen")
UNCHECKED = ("sam_vitb", "sam_vith", "sam_vitl")
"""SAM has no training."""
SIZES = {"seem_own_classes": ":seem_tiny"}


@pytest.fixture(scope="session")
def samples_root(shared):
    """Samples of all datasets, and the tokenizers, as docs/pods.md lays them out."""

    def write(folder):
        write_samples(folder)
        write_phi2(folder / "phi-2")
        write_clip(folder / "clip")
        write_gpt2(folder / "gpt2")
        ofa_dictionary.write_published(folder / "ofa")
        Tokenizer.train(["red ring"], [], 300, added=["<s>", "</s>"]).save(folder / "open_llama")  # no package ships its own

    return shared("datasets", write)


def write_davis(root, world):
    """Writes a clip of two frames in the layout of configs/davis_small.py."""
    for kind in ("JPEGImages", "Annotations"):
        (root / kind / "240p" / "clip").mkdir(parents=True)
    mask = np.zeros((40, 60), np.uint8)
    mask[10:20, 10:30] = 1
    for k in range(2):
        Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(root / "JPEGImages" / "240p" / "clip" / f"{k:05d}.jpg")
        Image.fromarray(mask).save(root / "Annotations" / "240p" / "clip" / f"{k:05d}.png")
    (root / "expressions.json").write_text(json.dumps({"clip": {"expressions": ["the box"]}}))


@pytest.fixture
def data_root(samples_root, world, tmp_path):
    """f(config name): a folder with data as the config expects it."""

    def make(name):
        if name in LARGE + SEEM + SCA + IFSEG:
            return samples_root
        if name == "own_data":
            return samples_root / "yours" / "folder"
        root = tmp_path / name
        if name.startswith("davis_small"):
            write_davis(root, world)
        elif name == "seem_own_classes":
            for folder in ("train", "val"):
                shutil.copytree(samples_root / "yours" / "coco_json", root / folder)
        elif name == "tiny_lora":
            for folder in ("new", "known"):
                shutil.copytree(world, root / folder)
        elif name == "tiny_video":
            toy.write_world(root, train=8, val=4, compositional=0, clips=10, videos="occlusion", log=lambda _: None)
        else:
            return world
        return root

    return make


def load(name, root):
    return configs.load(name, [f"data.root={root}"])


def test_every_shipped_config_is_checked():
    assert sorted(LARGE + SEEM + SCA + IFSEG[:1] + SMALL + UNCHECKED) == configs.shipped_names()


@pytest.mark.parametrize(
    "name",
    [
        *QUICK,
        *(pytest.param(name, marks=pytest.mark.slow) for name in (*SMALL, "davis_small:clips", *LARGE) if name not in QUICK),
    ],
)
def test_shipped_configs_pass_on_samples(name, data_root):
    """The large ones with the vocabulary of Phi-2, and the class names of COCO."""
    if name in LARGE:
        suffix = "" if name == "hyperseg_3b_released" else ":v5p-128" if name == "hyperseg_3b_full" else ":v5e-64"
        topology = {"hyperseg_3b_full": "v5p:4x4x4", "hyperseg_3b_released": "v5p:2x2x4"}.get(name, "v5e:8x8")
        output = run_check(load(name + suffix, data_root(name)), topology=topology)
        assert "without activations" in output
        if name.startswith("hyperseg"):
            numbers = [int(number) for line in output.splitlines() if "panoptic" in line for number in re.findall(r"\d+", line)]
            longest = min(number for number in numbers if 1740 <= number < 1792)
            names = "an answer names what is in its image"
            assert longest == 1740 if name == "hyperseg_3b_released" else longest > 1740, names
        if name == "hyperseg_3b_lora":
            assert "while they are saved, of the frozen parameters 0.41; without the worker processes" in output
    else:
        output = run_check(load(name + SIZES.get(name, ""), data_root(name)))
    assert "ready: no step was run" in output


@pytest.mark.slow
@pytest.mark.parametrize("name", SCA)
def test_configs_of_sca_pass_on_samples(name, data_root):
    """With GPT-2's vocabulary, and with a small one in place of OpenLLaMA's."""
    output = run_check(load(name, data_root(name)), topology="v5e:4x4")
    assert "ready: no step was run" in output


@pytest.mark.slow
@pytest.mark.parametrize("name", IFSEG)
def test_configs_of_ifseg_pass_on_samples(name, data_root):
    """With GPT-2's vocabulary in the order of a made-up dictionary of OFA's size, and all class names."""
    output = run_check(load(name, data_root(name)), topology="v5e:2x2")
    assert "ready: no step was run" in output


@pytest.mark.parametrize("call", [run_check, lambda config: train(config, "runs/none")])
def test_a_system_without_training_is_one_line(world, call):
    with pytest.raises(UserError, match=r"^system = 'sam' has no training; use its released weights, or a config of another"):
        call(load("sam_vitb", world))


@pytest.mark.slow
@pytest.mark.parametrize("name", SEEM)
def test_configs_of_seem_pass_on_samples(name, data_root):
    """With CLIP's vocabulary, all classes and sentences, masks of LVIS, and without the images of RefCOCOg's val."""
    output = run_check(load(name, data_root(name)), topology="v5e:4x4")
    millions = 63 if "sam" in name else 40  # on 16 chips
    assert f"trained parameters {4e-3 * millions / 16:.2f}" in output
    assert "data.tasks.panoptic: 1 of 2 records are left out: their images are in the split 'val' of" in " ".join(
        output.split()
    )
    assert "ready: no step was run" in output


def documented_starts():
    """Returns the arguments of each start of a run in docs/pods.md that names a data.root."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (CHECKOUT / "docs" / "pods.md").read_text(), re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line)[2:] for line in lines if line.startswith("python launch/") and "data.root=" in line]


@pytest.mark.parametrize("arguments", documented_starts(), ids=lambda arguments: arguments[0])
def test_documented_starts_find_the_tokenizer(arguments, samples_root):
    """It is in the bucket of the datasets: no other files are copied to the hosts."""
    overrides = [text.removeprefix("--config.") for text in arguments if text.startswith("--config.")]
    config = configs.load(arguments[0], [text.replace("/bucket/datasets", str(samples_root)) for text in overrides])
    assert config.data.root == str(samples_root)
    assert systems.get(config.system).tokenizer(config).vocab_size == 50296


def test_a_tokenizer_below_an_empty_root_is_one_line(micro):
    config = micro(data__tokenizer="{root}/phi-2", data__root="")
    with pytest.raises(UserError, match=r"data\.root is empty, and data\.tokenizer = '{root}/phi-2' is below it; give"):
        systems.get("hyperseg").tokenizer(config)


def test_everything_wrong_is_listed_at_once(world, tmp_path, capsys):
    arguments = [
        *("--config", "tiny", f"--config.data.root={world}", f"--config.init_from={tmp_path / 'nowhere'}"),
        *("--config.train.batch_size=7", "--config.train.preset=data", "--config.data.tasks.referring.length=20"),
        *("--config.data.tasks.region.train.folder={root}/absent", "--config.train.keep=2"),
    ]
    with pytest.raises(SystemExit) as ended:
        main(["train", "--check", *arguments])
    output = " ".join(capsys.readouterr().err.split())
    assert ended.value.code == 2 and "this run cannot start; correct the following:" in output
    for part in (
        "train.batch_size = 7: give a multiple of",
        "raise the task's `length`",
        "absent/toy.json: no toy world here",
        "nowhere: is not a model",
    ):
        assert part in output, part


def test_a_broken_validation_set_is_a_problem(world, tmp_path, micro):
    root = shutil.copytree(world, tmp_path / "broken")
    for path in (root / "coco" / "val").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"data\.tasks\.referring\.val: none of its .* records can be read"):
        run_check(micro(data__root=str(root)))


def test_mixed_batches_are_checked_with_their_common_shape(micro):
    config = micro(("referring", "chat"), data__batches="mixed", train__batch_size=4)
    assert "train step of mixed: traced" in run_check(config)
    with pytest.raises(UserError, match=r"data\.augment\.absent: no such task"):
        run_check(micro(data__augment={"absent": {}}))


def test_batches_that_cannot_be_split_are_one_line(micro):
    with pytest.raises(UserError, match=r"train\.batch_size = 2: give a multiple of 3") as error:
        run_check(micro(train__batch_size=2, optimizer__accumulate=3))
    assert str(error.value).count("\n") == 1
    with pytest.raises(UserError, match=r"train\.frozen_type = 'bfloat99': use one of float32"):
        run_check(micro(train__frozen_type="bfloat99"))


def test_what_concerns_the_whole_run_is_listed_too(micro):
    """Before devices, system and workdir are known; the data is checked with the rest of the config."""
    with pytest.raises(UserError) as error:
        run_check(micro(system="absent", train__steps=0), topology="v9:4x4", workdir="gopher://name/run")
    for part in ("system = 'absent' is not known", "--topology v9:4x4: unknown", "gopher://name/run: ", "train.steps = 0: "):
        assert part in str(error.value), part
    with pytest.raises(UserError, match=r"--topology v9:4x4: unknown[\s\S]*absent/toy\.json: no toy world here") as error:
        run_check(micro(data__tasks__referring__train__folder="{root}/absent"), topology="v9:4x4")
    assert str(error.value).count("\n") == 2


@pytest.mark.parametrize("batches", ["task", "mixed"])
def test_a_run_without_tasks_is_a_problem(micro, batches):
    with pytest.raises(UserError, match=r"data\.tasks: the ratios are referring 0; ") as error:
        run_check(micro(data__tasks__referring__ratio=0, data__batches=batches))
    assert str(error.value).count("\n") == 1


def test_a_broken_task_is_one_problem(micro):
    """Neither train.best, which names its scores, nor the ratios of the other tasks are problems as well."""
    config = micro(
        ("referring", "region"),
        data__tasks__referring__ratio=0,
        data__tasks__region__train__folder="{root}/absent",
        train__best="region/miou",
    )
    with pytest.raises(UserError, match=r"absent/toy\.json: no toy world here") as error:
        run_check(config)
    assert str(error.value).count("\n") == 1


def test_problems_of_single_processes_name_them(micro, monkeypatch):
    monkeypatch.setattr(check.hosts, "exchange_long", lambda what, text: [text, json.dumps(["the disk is full"]), text])
    with pytest.raises(UserError) as error:
        run_check(micro(train__best="referring/absent"))
    first, *problems = str(error.value).splitlines()
    assert first.startswith("this run cannot start") and len(problems) == 2
    assert problems[0].startswith("  process 0, 2: train.best = ") and problems[1] == "  process 1: the disk is full"
    monkeypatch.setattr(check.hosts, "exchange_long", lambda what, text: [text, text])
    with pytest.raises(UserError, match=r"following:\n  train\.best = 'referring/absent'"):
        run_check(micro(train__best="referring/absent"))


@pytest.mark.parametrize(
    ("unreadable", "share", "is_problem"), [(4, 0.5, False), (5, 0.5, True), (0, 0.0, False), (1, 0.0, True)]
)
def test_too_many_unreadable_records_are_a_problem(micro, monkeypatch, unreadable, share, is_problem):
    class DamagedStream(check.Stream):
        def __next__(self):
            self.read_errors += [(k, "image is damaged") for k in range(unreadable)]
            return super().__next__()

    monkeypatch.setattr(check, "Stream", DamagedStream)
    config = micro(train__batch_size=8, data__max_unreadable_share=share)
    task = sources.build_tasks(config, systems.get("hyperseg"), console=Console(quiet=True))["referring"]
    words = f"data\\.tasks\\.referring\\.train: of the first records, {8 - unreadable} of 8 can be read: image is damaged"
    with pytest.raises(UserError, match=words) if is_problem else contextlib.nullcontext():
        check._read_batch(config, "referring", task)


def test_a_train_step_that_cannot_be_traced_is_one_line(micro, monkeypatch):
    def step(state, batch):
        raise TypeError("shapes do not fit\nand much more")

    monkeypatch.setattr(check, "make_step", lambda *_: step)
    with pytest.raises(UserError, match=r"\n  the train step of referring cannot be traced: shapes do not fit$"):
        run_check(micro())


def test_an_unknown_score_is_a_problem(micro):
    with pytest.raises(UserError, match=r"train\.best = 'referring/absent'"):
        run_check(micro(train__best="referring/absent"))


def test_invalid_fields_are_listed_together(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--check", "--config", "tiny", "--config.train.keep=0", "--config.train.steps=0"])
    assert "train.keep = 0: give an integer from 1" in (output := " ".join(capsys.readouterr().err.split()))
    assert "train.steps = 0: give an integer from 1" in output


def test_too_little_memory_and_disk_are_problems(world, tmp_path, monkeypatch, micro):
    config = micro(data__root=str(world)).copy_and_resolve_references()
    monkeypatch.setattr(check.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    monkeypatch.setattr(devices, "MEMORY", {"v5e": 1000.0})
    config.train.unlock().update({"preset": "data", "batch_size": 4})
    with pytest.raises(
        UserError, match=r"preset data needs .* of 0\.0 GB per device[\s\S]*has 0\.0 GB of free disk, and the run"
    ):
        run_check(config, topology="v5e:2x2", workdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_check_writes_nothing(world, tmp_path, micro):
    before = sorted(pathlib.Path(world).rglob("*"))
    run_check(micro(), workdir=tmp_path / "run")
    assert not list(tmp_path.iterdir()) and sorted(pathlib.Path(world).rglob("*")) == before


@pytest.mark.parametrize(
    ("topology", "expected"),
    [
        ("v5e:4x4", (16, 4)),
        ("v5e:2x4", (8, 1)),
        ("v5p:4x4x4", (64, 16)),
        ("v6e:1x1", (1, 1)),
        ("v4:2x2x1", (4, 1)),
        ("tpu7x:2x2x1", (8, 1)),
        ("tpu7x:4x4x4", (128, 16)),
    ],
)
def test_topologies(topology, expected):
    piece = devices.slice_of_topology(topology)
    assert (piece.count, piece.hosts) == expected and piece.memory > 1e10


@pytest.mark.parametrize(
    "topology",
    [
        "v5p:4x4",
        "v5e:4x4x4",
        "v5e",
        "v5e:",
        "v5e:4",
        "v9:4x4",
        "v5e:0x4",
        "v5e:4x4x4x4",
        "v5e:99999x4",
        "v5e:4x4\n",
        "v5e:1\u0660x4",
    ],
)
def test_unknown_topologies_are_one_line(topology):
    with pytest.raises(UserError, match=r"--topology .*: unknown; give a generation"):
        devices.slice_of_topology(topology)


def test_flags_that_need_each_other(capsys):
    for arguments, why in (
        (["--config", "tiny"], "--workdir is missing"),
        (["--config", "tiny", "--workdir", "x", "--topology", "v5e:2x2"], "only valid with --check"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["train", *arguments])
        assert ended.value.code == 2 and why in " ".join(capsys.readouterr().err.split())
