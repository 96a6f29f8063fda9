"""A run is resumed only with the config that its position in the data and its losses depend on, unless changes are accepted."""

import functools

import pytest
from instructseg_config import small_config
from rich.console import Console

from hyperseg_jax import config as configs
from hyperseg_jax.errors import UserError
from hyperseg_jax.training import resume
from hyperseg_jax.training.loop import train

TASKS = ("referring", "chat")
REFUSED = {
    "data__tasks__referring__ratio": 3,
    "data__tasks__referring__prompts": 1,
    "data__tasks__referring__train__prompts_per_example": 1,
    "data__horizontal_flip": 0.25,
    "data__batches": "mixed",
    "data__curriculum__task": "chat",
    "loss__text_weight": 0.25,
    "optimizer__learning_rate": 0.5,
    "seed": 11,
}
STATE = {
    "model__num_queries": 5,
    "train__batch_size": 4,
    "train__average": 0.9,
    "train__frozen_type": "bfloat16",
    "optimizer__param_groups": ({"pattern": ".*"},),
}
FREE = {
    "model__llm__remat": "marked",
    "data__toy__seed": 7,  # data.root is set, so the toy dataset is not used
    "optimizer__accumulate": 2,
    "data__root": "elsewhere",
    "data__workers": 3,
    "data__tasks__referring__val__prompts_per_example": 1,
    "data__max_unreadable_share": 0.5,
    "train__steps": 50,
    "train__eval_every": 3,
    "train__preset": "data",
    "init_from": "other",
}


@pytest.mark.parametrize("name", [*REFUSED, *STATE, *FREE])
def test_changed_fields(micro, name):
    value = {**REFUSED, **STATE, **FREE}[name]
    saved, given = micro(TASKS).to_dict(), micro(TASKS, **{name: value}).to_dict()
    field = name.replace("__", ".")
    changes = resume.state_changes(saved, given), resume.run_changes(saved, given)
    assert [bool(text) for text in changes] == [name in STATE, name in REFUSED]
    assert name in FREE or field in "".join(changes)


TRAINING = {
    "precision__compute": "bfloat16",
    "lora__dropout": 0.5,
    "mask_encoder__drop_path": 0.3,
    "query_std": 0.25,
    "llm__embedding_std": 0.25,
    "llm__remat": "marked",
}


@pytest.mark.parametrize("name", TRAINING)
def test_what_only_changes_training_is_no_other_model(micro, name):
    saved, given = micro().to_dict(), micro().to_dict()
    *blocks, field = name.split("__")
    for config, value in ((saved, None), (given, TRAINING[name])):
        functools.reduce(lambda block, part: block[part], blocks, config["model"])[field] = value
    assert not resume.function_changes(saved, given)


@pytest.mark.parametrize("name, value", [("smoothing.rounds", 7), ("smoothing.neighbours", 5), ("scores", "embedding")])
def test_what_only_changes_predictions_is_no_other_model(name, value):
    """`hyperseg evaluate` compares the same weights with and without smoothing."""
    saved, given = (configs.load("ifseg_tiny", overrides).to_dict() for overrides in ([], [f"model.{name}={value}"]))
    assert saved != given and not resume.function_changes(saved, given)


def test_every_field_of_training_is_tried():
    fields = {part for name in TRAINING for part in name.split("__")}
    assert fields >= {*resume.TRAINING_MODEL_FIELDS, resume.FREE_MODEL_FIELD}


def test_a_missing_field_has_its_published_value_or_is_not_compared():
    """A config of an earlier version lacks newer fields."""
    saved, given = small_config().to_dict(), small_config().to_dict()
    del saved["model"]["text_fusion"]["form"], saved["model"]["fusion_size"]
    assert not resume.function_changes(saved, given) and not resume.function_changes(given, saved)
    given["model"]["text_fusion"]["form"] = "multi_granularity"
    message = "model.text_fusion.form: 'published' saved, 'multi_granularity' given"
    assert resume.function_changes(saved, given) == message
    assert "'multi_granularity' saved" in resume.function_changes(given, saved)
    saved["model"]["fusion_size"], given["model"]["text_fusion"]["form"] = 8, "published"
    assert resume.function_changes(saved, given) == "model.fusion_size: 8 saved, 16 given"


def test_a_run_older_than_a_block_of_the_model_has_its_published_value(micro):
    saved, given = micro(TASKS).to_dict(), micro(TASKS).to_dict()
    del saved["model"]["entities"]["given"], saved["model"]["entities"]["beams"]
    assert not resume.state_changes(saved, given), "fields of prediction that are newer than the run"
    del saved["model"]["entities"]
    assert not resume.state_changes(saved, given)
    given["model"]["entities"]["recognition"] = "hybrid"
    assert resume.state_changes(saved, given) == "model.entities.recognition: 'decoding' saved, 'hybrid' given"
    del saved["model"]["perceiver"]
    assert "model.perceiver" in resume.state_changes(saved, given)


def test_the_number_of_steps_counts_with_a_curriculum(micro):
    saved = micro(TASKS, data__curriculum__task="chat", data__curriculum__share=0.5).to_dict()
    given = saved | {"train": saved["train"] | {"steps": 50}}
    assert resume.run_changes(saved, given) == "train.steps: 30 saved, 50 given"


@pytest.mark.parametrize("field", ["data", "optimizer", "train", "loss"])
@pytest.mark.parametrize("value", [None, 5, [1], {"tasks": 3}])
def test_damaged_saved_configs_differ(micro, field, value):
    saved, given = micro(TASKS).to_dict(), micro(TASKS).to_dict()
    saved[field] = value
    assert resume.state_changes(saved, given) or resume.run_changes(saved, given)


def test_a_change_needs_the_flag(small_system, micro, tmp_path):
    console = Console(quiet=True)
    train(micro(train__steps=4), tmp_path / "run", console=console, stop_at=2)
    changed = micro(train__steps=4, loss__text_weight=0.25)
    with pytest.raises(UserError, match=r"loss\.text_weight: 0\.5 saved, 0\.25 given\); .* or --accept-changes to continue"):
        train(changed, tmp_path / "run", console=console)
    train(changed, tmp_path / "run", console=console, accept_changes=True, stop_at=3)
    train(changed, tmp_path / "run", console=console)
    assert (tmp_path / "run" / "model").is_dir()


def test_other_data_needs_the_flag(small_system, micro, tmp_path, world, monkeypatch):
    from hyperseg_jax.training import checks

    console = Console(quiet=True)
    train(micro(train__steps=4), tmp_path / "run", console=console, stop_at=2)
    monkeypatch.setattr(checks, "count_records", lambda tasks: {"referring": 5})
    with pytest.raises(UserError, match=r"referring: \d+ records saved, 5 found\).*the same data, or --accept-changes"):
        train(micro(train__steps=4), tmp_path / "run", console=console)
    train(micro(train__steps=4), tmp_path / "run", console=console, accept_changes=True)


def test_another_tokenizer_is_refused(small_system, micro, tmp_path):
    console = Console(quiet=True)
    train(micro(train__steps=4), tmp_path / "run", console=console, stop_at=2)
    saved = tmp_path / "run" / "tokenizer.json"
    original = saved.read_text()
    saved.write_text(original.replace("farthe", "ehtraf", 1))
    assert saved.read_text() != original
    with pytest.raises(UserError, match="was trained with another tokenizer"):
        train(micro(train__steps=4), tmp_path / "run", console=console)
    saved.write_text("{")
    with pytest.raises(UserError, match=r"tokenizer\.json: not readable"):
        train(micro(train__steps=4), tmp_path / "run", console=console)
    saved.unlink()  # as in a workdir of an earlier version
    train(micro(train__steps=4), tmp_path / "run", console=console)


def test_fewer_steps_than_the_run_has_are_refused(small_system, micro, tmp_path):
    console = Console(quiet=True)
    train(micro(train__steps=4), tmp_path / "run", console=console, stop_at=3)
    with pytest.raises(UserError, match=r"train\.steps = 2: the run in .* is at step 3; give at least as many"):
        train(micro(train__steps=2), tmp_path / "run", console=console)
