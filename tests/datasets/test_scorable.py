"""Records that are valid for training but cannot be scored: checks report them, and readers read them."""

import shutil

import pytest
from damage import edit_json, run_check, sorted_problems

from hyperseg_jax.datasets import layouts
from hyperseg_jax.errors import UserError

ANSWERS = "vqav2/v2_mscoco_val2014_annotations.json"


@pytest.mark.parametrize("count", [0, 1, None])
def test_questions_with_too_few_answers(copy_samples, count):
    root = copy_samples("coco", "vqav2")

    def edit(content):
        row = content["annotations"][0]
        row["answers"] = row["answers"][:count]
        if count is None:
            del row["answers"]

    edit_json(root / ANSWERS, edit)
    messages = sorted_problems(run_check(root, "vqav2", "val2014"))
    assert [kind for kind, _ in messages] == ["bad record"]
    assert f"question_id 0: has {count or 0} answers, and the accuracy needs 2" in messages[0][1]
    assert len(layouts.find_layout("vqav2").open(root, "val2014")[0].prompts[0].answers) == (count or 0)


def test_questions_with_too_many_answers(copy_samples):
    root = copy_samples("coco", "vqav2")
    edit_json(root / ANSWERS, lambda content: content["annotations"][0].update(answers=[{"answer": "a"}] * 1001))
    reader = layouts.find_layout("vqav2").open(root, "val2014")
    with pytest.raises(UserError, match="question_id 0: has 1001 answers, and at most 1000 are supported; remove some"):
        reader[0]
    assert reader[1].prompts


def test_answers_without_a_question_are_counted(copy_samples):
    root = copy_samples("coco", "vqav2")
    edit_json(root / "vqav2/v2_OpenEnded_mscoco_val2014_questions.json", lambda content: content["questions"].pop(0))
    (note,) = layouts.find_layout("vqav2").open(root, "val2014").notes
    assert note.startswith("1 answers of ") and note.endswith("are left out; the first: question_id 0")


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(("name", "home"), [("davis2016", "davis2016"), ("davis2017", "davis2017")])
def test_videos_with_too_few_frames(copy_samples, name, home, count):
    root = copy_samples(home)
    for path in [*(root / home).rglob("train-0/*.jpg"), *(root / home).rglob("train-0/*.png")]:
        if int(path.stem) >= count:
            path.unlink()
    messages = sorted_problems(run_check(root, name, "train"))
    assert [kind for kind, _ in messages] == ["bad record"]
    assert f"train-0: has {count} frames, and the scores need 3" in messages[0][1]
    layout = layouts.find_layout(name)
    assert len(layout.open(root, "train")[0].frames) == count
    assert len(layout.open(root, "train", frames=2)[0].frames) == 2


def test_videos_with_too_many_objects(copy_samples):
    root = copy_samples("davis2017")
    for path in (root / "davis2017" / "davis_text_annotations").iterdir():
        path.write_text(path.read_text() + "".join(f'train-0 {number} "a thing"\n' for number in range(1, 22)))
    messages = [
        text
        for _, text in sorted_problems(run_check(root, "ref_davis", "train"))
        if "object" in text and "has object" not in text
    ]
    assert len(messages) == 1 and "train-0 has 21 objects, and scores allow 20; remove some" in messages[0]
    assert len(layouts.find_layout("ref_davis").open(root, "train"))


def test_unsupervised_videos_may_have_two_frames(copy_samples):
    root = copy_samples("davis2017")
    shutil.rmtree(root / "davis2017" / "Annotations")
    for path in (root / "davis2017").rglob("train-0/*"):
        if int(path.stem) > 1:
            path.unlink()
    assert not sorted_problems(run_check(root, "davis2017_unsupervised", "train"))
