"""Readers on files of the real formats: what they take from them, and what bad files get."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image
from sample_inputs import draw_regions, region_kinds

from hyperseg_jax.datasets import CocoInteractive, CocoPanoptic, Llava, ReasonSeg, RefCoco, ReVos, masks
from hyperseg_jax.errors import UserError
from hyperseg_jax.ops import run_lengths

SIZE = (20, 30)  # height, width
SQUARE = np.zeros(SIZE, bool)
SQUARE[4:9, 6:15] = True
POLYGON = [6, 4, 14.9, 4.2, 14.7, 8.9, 6.3, 8]


def image(path, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)).save(path)
    return path


def save(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def record(number=0, sentences=("a cat", "the cat on the left"), name="a.jpg", **more):
    ann = {"segmentation": [POLYGON], "bbox": [6, 4, 15, 9], "category_id": 17, "iscrowd": 0}
    return {
        "new_img_id": number,
        "image_info": {"file_name": name, "height": SIZE[0], "width": SIZE[1]},
        "instruction": [{"sent": sentence, "raw": sentence} for sentence in sentences],
        "anns": [ann],
        **more,
    }


@pytest.fixture
def root(tmp_path):
    image(tmp_path / "images" / "a.jpg")
    image(tmp_path / "images" / "b.jpg")
    return tmp_path


def refcoco(root, records, **options):
    return RefCoco(save(root / "ref.json", records), root / "images", **options)


# masks


def test_polygon_is_painted_like_fill_poly():
    """Truncated corners, outline included."""
    assert np.array_equal(masks.decode_segmentation([POLYGON], *SIZE, ""), SQUARE)


def test_run_lengths_of_both_kinds():
    runs = run_lengths.encode(SQUARE)
    flat = SQUARE.T.reshape(-1)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [0]]).astype(int)))
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    assert np.array_equal(masks.decode_segmentation(runs, *SIZE, ""), SQUARE)
    assert np.array_equal(masks.decode_segmentation({"size": list(SIZE), "counts": counts}, *SIZE, ""), SQUARE)


def test_outline_fills_back_exactly():
    rng = np.random.default_rng(0)
    ring = np.hypot(*(np.mgrid[:40, :40] - 20)) // 6 % 2 == 1
    for mask in (SQUARE, ring, rng.random((15, 18)) < 0.5, np.eye(5, dtype=bool), np.zeros((4, 4), bool)):
        assert np.array_equal(masks.fill_polygons(masks.trace_polygons(mask), *mask.shape), mask)


# what readers take


def test_refcoco_sentences(root):
    records = [record(0), record(1, ("one",), anns=[], no_target=True)]
    joined = refcoco(root, records)
    assert len(joined) == 2
    assert joined[0].prompts[0].text == "a cat. the cat on the left."
    assert np.array_equal(joined[0].prompts[0].masks, SQUARE[None, None])
    assert joined[1].prompts[0].masks.shape == (0, 1, *SIZE)
    each = refcoco(root, records, sentences="each")
    assert [each[k].prompts[0].text for k in range(3)] == ["a cat.", "the cat on the left.", "one."]
    assert len({each[k].name for k in range(3)}) == 3
    records[0]["instruction"] = [{"sent": "cleaned", "raw": " A Cat "}, {"sent": "cleaned", "raw": "Sits."}]
    raw = refcoco(root, records, sentences="raw")
    assert [raw[k].prompts[0].text for k in range(3)] == ["a cat", "sits.", "one"]


def test_refcoco_several_anns_are_one_target(root):
    other = np.zeros(SIZE, bool)
    other[12:18, 20:28] = True
    both = record(anns=[{"segmentation": [POLYGON]}, {"segmentation": run_lengths.encode(other)}])
    assert np.array_equal(refcoco(root, [both])[0].prompts[0].masks[0, 0], SQUARE | other)


def test_refcoco_reads_several_files_in_order(root):
    for name, texts in (("one", ["a"]), ("two", ["b", "c"])):
        save(root / f"{name}.json", [record(k, (text,)) for k, text in enumerate(texts)])
    paths = [str(root / "one.json"), str(root / "two.json")]
    reader = pickle.loads(pickle.dumps(RefCoco(paths, root / "images")))
    assert [(example.name, example.prompts[0].text) for example in map(reader.__getitem__, range(len(reader)))] == [
        ("one.json#0", "a."),
        ("two.json#0", "b."),
        ("two.json#1", "c."),
    ]
    grouped = RefCoco(paths, root / "images", group_by_image=True, prompts_per_example=3)
    assert len(grouped) == 1 and len(grouped[0].prompts) == 3  # all of one image
    with pytest.raises(UserError, match="json_path is an empty list"):
        RefCoco([], root / "images")


def test_refcoco_groups_by_image(root):
    names = ["a.jpg", "b.jpg", "a.jpg", "a.jpg", "b.jpg", "a.jpg", "a.jpg"]
    records = [record(k, (f"s{k}",), name) for k, name in enumerate(names)]
    grouped = refcoco(root, records, group_by_image=True, prompts_per_example=2)
    texts = [[prompt.text for prompt in grouped[k].prompts] for k in range(len(grouped))]
    assert texts == [["s0."], ["s2.", "s3."], ["s5.", "s6."], ["s1.", "s4."]]


def test_reasonseg_ignore_rules_and_order(root):
    big = [[1, 1], [25, 1], [25, 18], [1, 18]]
    shapes = [
        {"label": "target", "points": [[6, 4], [14, 4], [14, 8], [6, 8]]},
        {"label": "Ignore_region", "points": big},
        {"label": "flag", "points": [[0, 0], [1, 1]]},
    ]
    image(root / "val" / "x.jpg")
    save(root / "val" / "x.json", {"text": [" why? ", "how?"], "is_sentence": True, "shapes": shapes})
    output = save(root / "explain.json", [{"image": "x.jpg", "query": "why?", "outputs": "because"}])
    (prompt,) = ReasonSeg(root / "val", explanations=output)[0].prompts
    painted = masks.fill_polygons([np.array(big)], *SIZE)
    assert (prompt.task, prompt.text, prompt.answer) == ("reasoning", "why?", "because")
    assert np.array_equal(prompt.masks[0, 0], SQUARE)
    assert np.array_equal(prompt.ignore[0], painted & ~SQUARE)
    released = ReasonSeg(root / "val", ignore="released")[0].prompts[0]
    assert np.array_equal(released.masks[0, 0], SQUARE) and released.ignore is None
    each = ReasonSeg(root / "val", sentences="each")
    assert [each[k].prompts[0].text for k in range(len(each))] == ["why?", "how?"]


def revos(root, track=None, **options):
    for t in range(4):
        image(root / "frames" / "v" / f"{t:05d}.jpg")
    spoken = {
        "0": {"exp": "the cat(s)", "obj_id": [1], "anno_id": [5, 6], "type_id": 0},
        "1": {"exp": "nothing", "obj_id": [], "anno_id": [], "type_id": 2},
    }
    video = {"vid_id": 0, "height": SIZE[0], "width": SIZE[1], "frames": [f"{t:05d}" for t in range(4)]}
    meta = save(root / "meta.json", {"videos": {"v": {**video, "expressions": spoken}}})
    runs = run_lengths.encode(SQUARE)
    tracks = save(root / "masks.json", {"5": track or [runs, None, runs, None], "6": [None, None, runs, runs]})
    return ReVos(meta, tracks, root / "frames", **options)


def test_revos_unions_and_gaps(root):
    reader = revos(root)
    first, second = reader[0], reader[1]
    assert first.frames.shape == (4, *SIZE, 3)
    assert first.prompts[0].text == "the cat" and first.prompts[0].group == "referring"
    assert first.prompts[0].masks.any((0, 2, 3)).tolist() == [True, False, True, True]
    assert second.prompts[0].masks.shape == (0, 4, *SIZE) and second.prompts[0].group == "absent"
    assert len(revos(root, group_by_video=True)[0].prompts) == 2


def test_revos_draws_an_expression_with_objects_of_each_video(root):
    reader = revos(root, sentences="random", frames=3, sampling="references")
    assert len(reader) == 1 and reader[0].name == "v/0"
    video = reader._meta.content["videos"]["v"]
    spoken = {**video["expressions"], "2": {"exp": "the dog", "anno_id": [5]}}
    videos = {"v": {**video, "expressions": spoken}, "w": {**video, "expressions": {"1": {"exp": "nothing", "anno_id": []}}}}
    reader = ReVos(save(root / "two.json", {"videos": videos}), root / "masks.json", root / "frames", sentences="random")
    assert len(reader) == 1  # without the video of which no expression has objects
    drawn = [reader.sample(0, np.random.default_rng(seed)) for seed in range(40)]
    assert {example.name for example in drawn} == {"v/0", "v/2"} and all(len(example.prompts) == 1 for example in drawn)
    again = [reader.sample(0, np.random.default_rng(seed)).name for seed in range(40)]
    assert again == [example.name for example in drawn] and 10 < again.count("v/0") < 30
    for options, message in (
        ({"sentences": "first"}, "choose one of each, random"),
        ({"sentences": "random"}, "group_by_video"),
    ):
        with pytest.raises(UserError, match=message):
            revos(root, **options, group_by_video=True)


def test_revos_clips_are_drawn(root):
    output = lambda **options: revos(root, **options)[0].prompts[0].masks.any((0, 2, 3)).tolist()
    assert output(frames=6) == [True, False, True, True, True, True]  # in order, the last repeated
    only_second = [None, run_lengths.encode(SQUARE), None, None]
    for seed in range(6):
        jumps = revos(root, only_second, frames=3, sampling="jump", seed=seed, group_by_video=True)
        jumps._masks.content["6"] = [None] * 4
        assert jumps[0].prompts[0].masks.any((0, 2, 3)).tolist() == [False, True, False]  # the key frame is the middle one
    with pytest.raises(UserError, match="sampling='even' is unknown"):
        revos(root, sampling="even")


def interactive(root, ann, **options):
    entry = {"new_img_id": 0, "image": "a.jpg", "image_info": record()["image_info"], "anns": [ann]}
    return CocoInteractive(save(root / "marks.json", [entry]), root / "images", **options)


def marks_of(point=True):
    dot, empty = np.zeros(SIZE, bool), run_lengths.encode(np.zeros(SIZE, bool))
    dot[6, 10] = True
    marks = {f"{kind}_visual_prompt_mask": run_lengths.encode(SQUARE) for kind in ("scribble", "box", "mask")}
    return {"segmentation": [POLYGON], "point_visual_prompt_mask": run_lengths.encode(dot) if point else empty, **marks}


def test_interactive_points_become_discs_and_empty_marks_are_passed_over(root):
    (prompt,) = interactive(root, marks_of(), kinds=("point",), point_radius=2)[0].prompts
    assert region_kinds(prompt) == ("point",) and draw_regions(prompt).sum() == 13 and prompt.labels == (0,)
    for seed in range(6):
        (prompt,) = interactive(root, marks_of(point=False), kinds=("point", "box"), seed=seed)[0].prompts
        assert region_kinds(prompt) == ("box",)
    with pytest.raises(UserError, match="no region has a mark"):
        interactive(root, marks_of(point=False), kinds=("point",))[0]


def test_llava_turns_and_text_only(root):
    lines = ["<image>\nWhat?", "A cat.", "Where?", "There."]
    spoken = [{"from": ("human", "gpt")[k % 2], "value": line} for k, line in enumerate(lines)]
    records = [{"id": "1", "conversations": spoken}, {"id": "2", "image": "a.jpg", "conversations": spoken}]
    reader = Llava(save(root / "chat.json", records), root / "images")
    assert len(reader) == 1 and reader.text_only == 1
    assert [(p.text, p.answer) for p in reader[0].prompts] == [("What?", "A cat."), ("Where?", "There.")]


def test_llava_prompts_of_several_rounds(root):
    spoken = [{"from": ("human", "gpt")[k % 2], "value": f"line {k}"} for k in range(10)]
    records = [{"id": "1", "image": "a.jpg", "conversations": spoken}]
    reader = Llava(save(root / "chat.json", records), root / "images", rounds_per_prompt=2, prompts_per_example=2)
    prompts = [[(p.history, p.text, p.answer) for p in example.prompts] for example in (reader[k] for k in range(len(reader)))]
    first = ((), "line 0", "line 1")
    second = ((("line 2", "line 3"),), "line 4", "line 5")
    assert prompts == [[first], [second, ((("line 6", "line 7"),), "line 8", "line 9")]]
    with pytest.raises(UserError, match="rounds_per_prompt=0 is too few"):
        Llava(root / "chat.json", root / "images", rounds_per_prompt=0)


def test_polygons_of_refcoco_as_in_training(root):
    painted = {rule: refcoco(root, [record()], polygons=rule)[0].prompts[0].masks[0, 0] for rule in ("fill_poly", "coco")}
    expected = masks.decode_segmentation([POLYGON], *SIZE, "", polygons="coco")
    np.testing.assert_array_equal(painted["coco"], expected)
    assert painted["fill_poly"].sum() > expected.sum()  # with the outline
    with pytest.raises(UserError, match="polygons='cv2' is unknown; choose one of fill_poly, coco"):
        refcoco(root, [record()], polygons="cv2")


@pytest.mark.parametrize("lines", [[], ["What?"], ["What?", "A cat.", "Where?"], 17, None])
def test_llava_turns_without_an_answer(root, lines):
    """They are bad records: none disappears, and the others are read."""
    spoken = lambda lines: [{"from": ("human", "gpt")[k % 2], "value": line} for k, line in enumerate(lines)]
    bad = {"id": "1", "image": "a.jpg", "conversations": spoken(lines) if isinstance(lines, list) else lines}
    good = {"id": "2", "image": "a.jpg", "conversations": spoken(["What?", "A cat."])}
    reader = Llava(save(root / "chat.json", [bad, 17, good]), root / "images")
    assert len(reader) == 3 and reader[2].prompts[0].text == "What?"
    for k in (0, 1):
        with pytest.raises(UserError, match=rf"chat\.json#{k}: field 'conversations' "):
            reader[k]


def panoptic(root, png, segments):
    folder = root / "png"
    folder.mkdir(exist_ok=True)
    Image.fromarray(png).save(folder / "a.png")
    content = {
        "images": [{"id": 7, "file_name": "a.jpg", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": [{"image_id": 7, "file_name": "a.png", "segments_info": segments}],
        "categories": [{"id": 3, "name": "cat", "isthing": 1}, {"id": 9, "name": "sky", "isthing": 0}],
    }
    return CocoPanoptic(save(root / "pan.json", content), root / "images", folder)


def test_panoptic_ids_void_and_crowd(root):
    png = np.zeros((*SIZE, 3), np.uint8)
    png[:10] = (1, 2, 3)
    png[10:15] = (0, 1, 0)
    number = 1 + 256 * 2 + 65536 * 3
    segments = [{"id": number, "category_id": 9}, {"id": 256, "category_id": 3, "iscrowd": 1}]
    (prompt,) = panoptic(root, png, segments)[0].prompts
    assert prompt.classes == ("cat", "sky") and prompt.things == (True, False) and prompt.labels == (1,)
    assert prompt.masks.shape == (1, 1, *SIZE) and prompt.masks[0, 0, :10].all() and not prompt.masks[0, 0, 10:].any()
    assert prompt.ignore[0, 10:].all() and not prompt.ignore[0, :10].any()
    with pytest.raises(UserError, match="no pixel has segment 5"):
        panoptic(root, png, [{"id": 5, "category_id": 9}])[0]
    with pytest.raises(
        UserError, match=rf"a\.png: has pixels of segment {number}, which .*pan\.json annotations#0 does not list"
    ):
        panoptic(root, png, segments[1:])[0]
    with pytest.raises(UserError, match="category_id 4 is not among"):
        panoptic(root, png, [{"id": 256, "category_id": 4}])[0]


# what bad files get


def test_bad_images_are_named(root):
    reader = refcoco(root, [record(), record(1, name="b.jpg"), record(2, name="c.jpg"), record(3, name="d.jpg")])
    cut = (root / "images" / "a.jpg").read_bytes()
    (root / "images" / "a.jpg").write_bytes(cut[: len(cut) // 2])
    with pytest.raises(UserError, match=r"a\.jpg: cannot be read as an image"):
        reader[0]
    image(root / "images" / "b.jpg", (21, 30))
    with pytest.raises(UserError, match=r"b\.jpg: is 30x21 pixels, its annotations say 30x20"):
        reader[1]
    with pytest.raises(UserError, match=r"c\.jpg: no such image"):
        reader[2]
    (root / "images" / "d.jpg").write_text("hello")
    with pytest.raises(UserError, match=r"d\.jpg: cannot be read"):
        reader[3]


def test_bad_masks_are_named(root):
    wide = run_lengths.encode(np.ones((20, 31), bool))
    with pytest.raises(UserError, match=r"ref\.json#0 anns#0 segmentation: the mask is 31x20 pixels, its image 30x20"):
        refcoco(root, [record(anns=[{"segmentation": wide}])])[0]
    with pytest.raises(UserError, match="at least three x, y pairs"):
        refcoco(root, [record(anns=[{"segmentation": [[1, 2, 3, 4]]}])])[0]
    for nonsense in ({"size": [20, 30]}, "abc", {"size": [20, 30], "counts": 5}):
        with pytest.raises(UserError, match=r"ref\.json#0 anns#0 segmentation"):
            refcoco(root, [record(anns=[{"segmentation": nonsense}])])[0]


@pytest.mark.parametrize("missing", ["image_info", "instruction", "anns"])
def test_missing_fields_are_named(root, missing):
    broken = record()
    del broken[missing]
    with pytest.raises(UserError, match=rf"ref\.json#0: field '{missing}"):
        refcoco(root, [broken])[0]


def test_missing_and_wrong_files_are_named(root):
    with pytest.raises(UserError, match=r"none\.json: no such file"):
        RefCoco(root / "none.json", root / "images")
    with pytest.raises(UserError, match="none: no such folder"):
        RefCoco(save(root / "ref.json", []), root / "none")
    with pytest.raises(UserError, match="contains a dict, expected a list"):
        refcoco(root, {"videos": {}})
    (root / "cut.json").write_text('[{"image_info": ')
    with pytest.raises(UserError, match=r"cut\.json: is not valid JSON"):
        RefCoco(root / "cut.json", root / "images")
    with pytest.raises(UserError, match="field 'annotations' is missing"):
        CocoPanoptic(save(root / "p.json", {"images": [], "categories": []}), root / "images", root / "images")
    with pytest.raises(UserError, match="has 2 frames"):
        revos(root, [None, None])[0]
    with pytest.raises(UserError, match="conversations#0: field 'from' is 'gpt', expected 'human'"):
        entry = {"image": "a.jpg", "conversations": [{"from": "gpt", "value": "x"}, {"from": "gpt", "value": "y"}]}
        Llava(save(root / "chat.json", [entry]), root / "images")[0]
