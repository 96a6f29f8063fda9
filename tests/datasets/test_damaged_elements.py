"""One damaged element of an annotation file is one bad record; the other records are read. A damaged index is one line."""

import json
import pickle
import shutil

import pytest
from damage import edit_json, run_check

from hyperseg_jax.datasets import ReasonSeg, layouts
from hyperseg_jax.errors import UserError

GREFS = "refer/grefcoco/grefs(unc).json"
EXPRESSIONS, REVOS = "ref_youtube_vos/meta_expressions/train/meta_expressions.json", "revos/meta_expressions_train_.json"


def first_of(content, split):
    return next(ref for ref in content if ref["split"] == split)


ELEMENTS = {  # benchmark, split, file, edit, message of the record
    "an unknown question": ("scienceqa", "test", "scienceqa/pid_splits.json", lambda c: c["test"].insert(0, "9" * 6), "999999"),
    "no question": ("scienceqa", "val", "scienceqa/pid_splits.json", lambda c: c["val"].append([1]), "field 'val["),
    "an answer": (
        "vqav2",
        "val2014",
        "vqav2/v2_mscoco_val2014_annotations.json",
        lambda c: c["annotations"][-1].update(question_id=None),
        "has no answer",
    ),
    "a crowd": (
        "objects365",
        "val",
        "objects365/zhiyuan_objv2_val.json",
        lambda c: c["annotations"][-1].update(iscrowd="x"),
        "annotations#",
    ),
    **{
        f"a ref with {name}": ("grefcoco", "val", GREFS, lambda c, e=edit: first_of(c, "val").update(e), words)
        for name, edit, words in (
            ("sentences", {"sentences": None}, "field 'sentences' is None"),
            ("an empty sentence", {"sentences": [{"sent": " "}]}, "has an empty sentence"),
            ("an image", {"image_id": [1]}, "field 'image_id'"),
            ("an unknown image", {"image_id": 4711}, "image_id 4711 is not in"),
            ("an id", {"ref_id": {}}, "field 'ref_id'"),
            ("a split", {"split": 5}, "field 'split'"),
        )
    },
    "no ref": ("grefcoco", "val", GREFS, lambda c: c.append(5), "field 'split' is missing"),
    "an annotation of refs": (
        "refcoco",
        "val",
        "refer/refcoco/instances.json",
        lambda c: c["annotations"][0].update(id=True),
        "",
    ),
    "an image of regions": (
        "visual_genome",
        "val",
        "visual_genome/region_descriptions.json",
        lambda c: c[-1].update(id=None),
        "field 'id' is None",
    ),
    "regions": (
        "visual_genome",
        "train",
        "visual_genome/region_descriptions.json",
        lambda c: c[0].update(regions=3),
        "field 'regions' is 3",
    ),
    "an image size": ("visual_genome", "train", "visual_genome/image_data.json", lambda c: c[0].pop("image_id"), "is not in"),
    "an expression": (
        "ref_youtube_vos",
        "train",
        EXPRESSIONS,
        lambda c: c["videos"]["train-0"]["expressions"].update({"1": 5}),
        "train-0 1: field 'exp' is missing",
    ),
    "an object of an expression": (
        "ref_youtube_vos",
        "train",
        EXPRESSIONS,
        lambda c: c["videos"]["train-0"]["expressions"]["1"].update(obj_id="x"),
        "obj_id 'x' is not an object number",
    ),
    "a video of expressions": (
        "ref_youtube_vos",
        "train",
        EXPRESSIONS,
        lambda c: c["videos"].update(x=5),
        "x: field 'frames' is missing",
    ),
    "a video of revos": ("revos", "train", REVOS, lambda c: c["videos"].update(x=5), "x: field 'expressions' is missing"),
}
TOPS = {"grefcoco": ("coco", "refer"), "refcoco": ("coco", "refer"), "vqav2": ("coco", "vqav2")}


@pytest.mark.parametrize("case", ELEMENTS)
def test_other_records_of_a_file_are_read(copy_samples, case):
    name, split, file, edit, words = ELEMENTS[case]
    root = copy_samples(*TOPS.get(name, (name,)))
    edit_json(root / file, edit)
    reader = pickle.loads(pickle.dumps(layouts.find_layout(name).open(root, split)))
    errors, good = [], 0
    for _ in range(2):
        for k in range(len(reader)):
            try:
                good += len(reader[k].frames) > 0
            except UserError as error:
                errors.append(str(error))
    assert errors and good >= 2
    assert all(words in error and error.isprintable() for error in errors) and len(set(errors)) * 2 == len(errors)
    assert any(words in problem for problem in run_check(root, name, split).collected.problems)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"outputs": "a"}, {"outputs": "b"}], "has two explanations; remove one of them"),
        ([{"outputs": 5}], "field 'outputs' is 5"),
        ([{}], "field 'outputs' is missing"),
    ],
)
def test_explanations_of_one_image(copy_samples, tmp_path, rows, words):
    root = copy_samples("reasonseg")
    folder = next(path for path in sorted((root / "reasonseg").iterdir()) if list(path.glob("*.jpg")))
    for path in list(folder.iterdir()):
        shutil.copy(path, folder / f"z{path.name}")
    image = sorted(folder.glob("*.json"))[0].with_suffix(".jpg").name
    (tmp_path / "explanations.json").write_text(json.dumps([{"image": image, "query": "", **row} for row in rows]))
    reader = ReasonSeg(folder, explanations=tmp_path / "explanations.json", sentences="first")
    assert len(reader[len(reader) - 1].frames)
    for _ in range(2):
        with pytest.raises(UserError, match=words):
            reader[0]


INDICES = {
    "a category": (
        "coco_instances",
        "val2017",
        "coco/annotations/instances_val2017.json",
        lambda c: c["categories"][0].pop("id"),
    ),
    "an image": ("coco_instances", "val2017", "coco/annotations/instances_val2017.json", lambda c: c["images"][0].pop("id")),
    "an object": (
        "coco_instances",
        "val2017",
        "coco/annotations/instances_val2017.json",
        lambda c: c["annotations"][0].pop("image_id"),
    ),
    "a video": ("youtube_vis_2019", "train", "youtube_vis_2019/train.json", lambda c: c["videos"][0].pop("id")),
    "a split": ("visual_genome", "train", "visual_genome/densecap_splits.json", lambda c: c["train"].append(None)),
}


@pytest.mark.parametrize("case", INDICES)
def test_a_damaged_index_is_one_line(copy_samples, case):
    name, split, file, edit = INDICES[case]
    root = copy_samples(name.partition("_instances")[0])
    edit_json(root / file, edit)
    with pytest.raises(UserError, match=str(root / file)) as error:
        layouts.find_layout(name).open(root, split)
    assert str(error.value).isprintable()
