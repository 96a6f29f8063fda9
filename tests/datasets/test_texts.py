"""Records without a text, or with a text that no model can read, are reported and do not disappear."""

import json

import numpy as np
import pytest
from damage import edit_json, run_check, sorted_problems
from PIL import Image

from hyperseg_jax.datasets import Folder, ReasonSeg, RefCoco, layouts
from hyperseg_jax.datasets.record_errors import guard_record
from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Example, Prompt, Region

REFCOCO = "refcoco/refcoco_val.json"


@pytest.mark.parametrize("sentences", ["joined", "each", "raw"])
@pytest.mark.parametrize("instruction", [[], [{"sent": " ", "raw": " "}], 17])
def test_records_without_an_instruction(copy_samples, sentences, instruction):
    root = copy_samples("refcoco", "coco")
    sound = len(layouts.find_layout("refcoco_json").open(root, "val", sentences=sentences))
    count = len(json.loads((root / REFCOCO).read_text())[0]["instruction"])
    edit_json(root / REFCOCO, lambda content: content[0].update(instruction=instruction))
    reader = layouts.find_layout("refcoco_json").open(root, "val", sentences=sentences)
    assert isinstance(reader, RefCoco) and len(reader) == sound - (count - 1 if sentences != "joined" else 0)
    with pytest.raises(
        UserError, match=r"refcoco_val\.json#0.*(field 'instruction' has no words; describe|field 'instruction' is 17)"
    ):
        reader[0]
    assert reader[1].prompts[0].text


@pytest.mark.parametrize("content", ['{"text": [], "shapes": []}', '{"text": "what"}', "{"])
def test_damaged_questions_hide_no_others(copy_samples, content):
    root = copy_samples("reasonseg")
    folder = root / "reasonseg" / "val"
    first = folder / "-.json"
    assert first <= min(folder.glob("*.json"))
    first.write_text(content)
    reader = ReasonSeg(folder, sentences="each")
    with pytest.raises(UserError, match=first.name):
        reader[0]
    assert reader[1].prompts[0].text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\ud800b", r"regions#1: field 'phrase' has the lone surrogate '\\ud800'; correct it"),
        ("x" * 40_000, r"regions#1: field 'phrase': has 40000 letters, and the limit is 32768; .*limits\.letters"),
    ],
)
def test_captions_that_no_model_can_read(copy_samples, text, message):
    root = copy_samples("visual_genome")
    edit_json(root / "visual_genome/region_descriptions.json", lambda content: content[0]["regions"][1].update(phrase=text))
    reader = layouts.find_layout("visual_genome").open(root, "test")
    with pytest.raises(UserError, match=message) as raised:
        reader[0]
    assert sorted_problems(run_check(root, "visual_genome", "test")) == [("bad record", str(raised.value))]
    assert reader[1].prompts[0].captions


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        ((("a",),), "a prompt has 1 captions for 2 regions; give texts for each region"),
        ((("a",), ()), "field 'captions' of a prompt is not a tuple of texts for each region"),
        (("a", "b"), "field 'captions' of a prompt is not a tuple of texts for each region"),
        ((("a",), (5,)), "field 'captions' of a prompt is not a tuple of texts for each region"),
    ],
)
def test_captions_that_do_not_fit_their_regions(captions, message):
    class Reader:
        @guard_record
        def __getitem__(self, index):
            prompt = Prompt("caption", regions=(Region.from_box(0, 0, 5, 5),) * 2)
            object.__setattr__(prompt, "captions", captions)  # past the checks of types in tests
            return Example("it", np.zeros((1, 9, 9, 3), np.uint8), (prompt,))

    with pytest.raises(UserError, match=f"it: {message}"):
        Reader()[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\ud800b", r"line 1: field 'text' has the lone surrogate '\\ud800'; correct it"),
        ("x" * 40_000, r"line 1: field 'text': has 40000 letters, and the limit is 32768; .*limits\.letters"),
        ("..", r"captions\.jsonl: folder#0: field 'text' of a prompt is empty; describe the object, or remove the record"),
    ],
)
def test_texts_that_no_model_can_read(copy_samples, text, message):
    folder = copy_samples("yours") / "yours" / "folder"
    path = folder / "captions.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("\n".join(json.dumps(line) for line in [lines[0] | {"text": text}, *lines[1:]]))
    ((kind, found),) = sorted_problems(run_check(folder, "folder"))
    assert kind == "bad record"
    with pytest.raises(UserError, match=message) as raised:
        layouts.find_layout("folder").open(folder, layouts.find_layout("folder").splits[-1])[0]
    assert found == str(raised.value)


def test_long_names_of_groups_are_reported(tmp_path):
    """Each group becomes the name of a score, in every log."""
    Image.new("RGB", (4, 4)).save(tmp_path / "a.jpg")
    Image.new("L", (4, 4), 1).save(tmp_path / "a.png")
    for letters, bad in ((100, False), (101, True)):
        line = {"image": "a.jpg", "text": "all", "mask": "a.png", "group": "g" * letters}
        (tmp_path / "captions.jsonl").write_text(json.dumps(line))
        reader = Folder(tmp_path, task="referring")
        if bad:
            with pytest.raises(UserError, match="field 'group' of a prompt has 101 letters, and at most 100 are allowed"):
                reader[0]
        else:
            assert reader[0].prompts[0].group == "g" * letters
