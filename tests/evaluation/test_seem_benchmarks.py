"""Benchmarks of SEEM from files to scores: sentences, class lists, and objects of a video by an example frame.

The model is replaced by rules on the arrays that it gets; the expected scores are worked out from the files alone.
"""

import collections
import functools
import json
import pickle

import numpy as np
import pytest
from PIL import Image
from sample_inputs import random_params
from seem_config import small_config

from hyperseg_jax.datasets.class_names import COCO_PANOPTIC
from hyperseg_jax.errors import UserError
from hyperseg_jax.evaluation import benchmark_run, benchmarks
from hyperseg_jax.evaluation.engine import AnswerOptions, Engine, run_protocols
from hyperseg_jax.evaluation.scoring import SCORINGS
from hyperseg_jax.evaluation.trivial_scores import trivial_scores
from hyperseg_jax.ops import run_lengths
from hyperseg_jax.predictors.model import Model
from hyperseg_jax.systems import system as systems
from hyperseg_jax.systems.seem.texts import text_ids

SIDE = 64
SEEM = systems.get("seem")


def make_block(top, left, height, width):
    mask = np.zeros((SIDE, SIDE), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def make_band(top, height):
    """All pixels of some rows. At a multiple of 4, its logits at stride 4 give the same band again at the size of the image."""
    return make_block(top, 0, height, SIDE)


def logits_of(masks, stride=4):
    return np.where(np.asarray(masks)[..., ::stride, ::stride], 9.0, -9.0).astype(np.float32)


def run(root, name, predict, batch_size=2):
    """Returns the scores of a benchmark. predict(batch) -> outputs [B, 1, K, ...]."""
    engine = Engine(lambda params, batch, features, memory: (predict(batch), None), None, SEEM.answers, None, interactive=True)
    line, config = benchmarks.BENCHMARKS[name], small_config(data__image_size=SIDE)
    task = benchmarks.open_task(name, line, config, SEEM, str(root))
    return benchmark_run.run(engine, line, task, batch_size=batch_size).scorer.compute()


def save_image(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((SIDE, SIDE, 3), value, np.uint8)).save(path)


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


# sentences

TARGETS = {"the left one": make_band(0, 21), "the right one": make_band(20, 22)}
TARGETS |= {"the big one": make_band(40, 24), "the small one": make_band(0, 8)}
FILES = ("one.jpg", "other.jpg", "one.jpg", "one.jpg")
RECORDS = list(zip(FILES, ("the left one", "the big one", "the right one", "the small one"), strict=True))
FOUND = {"the left one": make_band(0, 16), "the right one": make_band(20, 12)}
FOUND |= {"the big one": make_band(40, 24), "the small one": make_band(4, 8)}


@pytest.fixture
def refcocog(tmp_path):
    """Four annotations about two images. Each has a second sentence, which describes another object. The cleaned sentences are
    those of other objects."""
    refs, objects = [], []
    for k, (file, text) in enumerate(RECORDS):
        save_image(tmp_path / "coco" / "train2014" / file, 50)
        other = next(sentence for sentence in TARGETS if sentence != text)
        rows = [{"sent": other, "raw": text.upper()}, {"sent": text, "raw": other}]
        refs.append({"ref_id": k, "ann_id": k, "image_id": FILES.index(file), "split": "val", "sentences": rows})
        objects.append({"id": k, "image_id": FILES.index(file), "segmentation": run_lengths.encode(TARGETS[text])})
    images = [{"id": FILES.index(file), "file_name": file, "height": SIDE, "width": SIDE} for file in sorted(set(FILES))]
    folder = tmp_path / "refer" / "refcocog"
    write_json(folder / "instances.json", {"images": images, "annotations": objects, "categories": []})
    (folder / "refs(umd).p").write_bytes(pickle.dumps(refs))
    return tmp_path


def phrase_masks():
    """Returns predict(batch) that knows the mask of each sentence, and the list of its queries: the sentences of each row."""
    tokenizer, queries = SEEM.tokenizer(small_config()), []
    read = {tuple(text_ids(tokenizer, text, 32)): text for text in TARGETS}

    def predict(batch):
        ids, present = np.asarray(batch["phrase_ids"]), np.asarray(batch["phrase_present"])
        until_end = lambda row: tuple(row[: int(np.argmax(row == tokenizer.eos_id)) + 1].tolist())
        texts = [[read[until_end(row)] for row in rows[here]] for rows, here in zip(ids, present, strict=True)]
        queries.append(texts)
        masks = np.zeros((*ids.shape[:2], SIDE, SIDE), bool)
        for row, of_row in enumerate(texts):
            masks[row, : len(of_row)] = [FOUND[text] for text in of_row]
        return {"mask_logits": logits_of(masks)[:, None, :, None], "expression": np.ones((*masks.shape[:2], 1))[:, None]}

    return predict, queries


def test_the_first_sentences_about_an_image_are_one_query(refcocog):
    """As they were written: in lower case, without a period of ours."""
    predict, queries = phrase_masks()
    scores = run(refcocog, "refcocog_first", predict)
    ious, overlap, union = [], 0, 0
    for _, text in RECORDS:
        both, either = (FOUND[text] & TARGETS[text]).sum(), (FOUND[text] | TARGETS[text]).sum()
        ious.append(both / either)
        overlap, union = overlap + both, union + either
    assert ious == pytest.approx([16 / 21, 1, 12 / 22, 1 / 3])
    expected = {"ciou": overlap / union, "giou": np.mean(ious), "count": 4}
    shares = zip((0.5, 0.6, 0.7, 0.8, 0.9), (0.75, 0.5, 0.5, 0.25, 0.25), strict=True)
    expected |= {f"precision@{least}": share for least, share in shares}
    assert {name: scores[name] for name in expected} == pytest.approx(expected, abs=1e-5)
    assert len(queries) == 1 and [len(row) for row in queries[0]] == [3, 1]


# class lists

CLASSES = list(COCO_PANOPTIC.values())
PERSON, DOG, SKY, GRASS = (CLASSES.index(name) for name in ("person", "dog", "sky-other-merged", "grass-merged"))
IDS = list(COCO_PANOPTIC)
TRUTH = [  # (class, mask, id) by image
    [(PERSON, make_band(0, 19), 1), (SKY, make_band(20, 44), 2)],
    [(PERSON, make_band(0, 20), 3), (DOG, make_band(20, 20), 4), (GRASS, make_band(40, 24), 5)],
]
ANSWERS = [  # (class, mask) by image
    [(PERSON, make_band(0, 16)), (SKY, make_band(20, 44)), (DOG, make_band(16, 4))],
    [(PERSON, make_band(0, 20)), (DOG, make_band(20, 8)), (GRASS, make_band(40, 24))],
]


@pytest.fixture
def coco(tmp_path):
    """Two images with segments of things and stuff; image k has the grey value 100 k."""
    notes, rows, objects = tmp_path / "coco" / "annotations", [], []
    (notes / "panoptic_val2017").mkdir(parents=True)
    images = [{"id": k, "file_name": f"{k:012d}.jpg", "height": SIDE, "width": SIDE} for k in range(2)]
    for k, segments in enumerate(TRUTH):
        save_image(tmp_path / "coco" / "val2017" / f"{k:012d}.jpg", 100 * k)
        colors = np.zeros((SIDE, SIDE, 3), np.uint8)
        for _, mask, number in segments:
            colors[mask, 0] = number
        Image.fromarray(colors).save(notes / "panoptic_val2017" / f"{k:012d}.png")
        info = [{"id": number, "category_id": IDS[label], "iscrowd": 0} for label, _, number in segments]
        rows.append({"image_id": k, "file_name": f"{k:012d}.png", "segments_info": info})
        objects += [
            {
                "id": number,
                "image_id": k,
                "category_id": IDS[label],
                "iscrowd": 0,
                "area": int(mask.sum()),
                "segmentation": run_lengths.encode(mask),
            }
            for label, mask, number in segments
            if label in (PERSON, DOG)
        ]
    names = [{"id": number, "name": name, "isthing": int(number < 92)} for number, name in COCO_PANOPTIC.items()]
    write_json(notes / "panoptic_val2017.json", {"images": images, "annotations": rows, "categories": names})
    things = [name for name in names if name["isthing"]]
    write_json(notes / "instances_val2017.json", {"images": images, "annotations": objects, "categories": things})
    return tmp_path


def class_masks(batch, answers=ANSWERS):
    """Answers a class list with these segments; a query has 0.97 of its class, or of the background."""
    numbers = np.rint(np.asarray(batch["images"])[:, 0].mean((1, 2, 3)) / 100).astype(int)
    valid = np.asarray(batch["class_valid"])
    count = int(valid[0].sum())
    logits = np.zeros((len(numbers), 3, valid.shape[1]), np.float32)
    for row, number in enumerate(numbers):
        for query, (label, _) in enumerate(answers[number]):
            logits[row, query, min(label, count - 1)] = np.log(0.97 / (0.03 / (count - 1)))
    masks = logits_of([[mask for _, mask in answers[number]] for number in numbers])
    return {"mask_logits": masks[:, None, None], "class": logits[:, None, None], "class_valid": valid[:, None, None]}


def test_panoptic_quality_over_all_classes(coco):
    """person: IoU 16 / 19 and 1; dog: one false positive, and one miss with IoU 0.4; sky and grass are right."""
    scores = run(coco, "coco_panoptic", class_masks)
    person = (16 / 19 + 1) / 2
    assert scores["classes"] == 4 and scores["pq"] == pytest.approx((person + 0 + 1 + 1) / 4)
    assert scores["pq_things"] == pytest.approx(person / 2) and scores["pq_stuff"] == 1


@pytest.mark.parametrize("crowd", [False, True])
def test_semantic_scores_over_all_classes(coco, crowd):
    """The row of the first image without a segment in the truth does not count. A crowd counts as its class."""
    notes = coco / "coco" / "annotations" / "panoptic_val2017.json"
    content = json.loads(notes.read_text())
    content["annotations"][1]["segments_info"][0]["iscrowd"] = int(crowd)
    write_json(notes, content)
    answers = [ANSWERS[0], [(PERSON, make_band(0, 28)), (DOG, make_band(28, 12)), (GRASS, make_band(40, 24))]]
    scores = run(coco, "coco_semantic", lambda batch: class_masks(batch, answers))
    rows = lambda segments: np.array([next((c for c, mask, *_ in segments if mask[y, 0]), -1) for y in range(SIDE)])
    labels, predicted = (np.concatenate([rows(image) for image in images]) for images in (TRUTH, answers))
    labels, predicted = labels[labels >= 0], predicted[labels >= 0]
    classes = (PERSON, DOG, SKY, GRASS)
    ious = [((predicted == k) & (labels == k)).sum() / ((predicted == k) | (labels == k)).sum() for k in classes]
    assert len(labels) == 127 and scores["classes"] == 4 and scores["miou"] == pytest.approx(np.mean(ious))
    assert scores["aacc"] == pytest.approx((labels == predicted).mean()) and ious[0] < 0.9


@pytest.mark.parametrize(("name", "classes"), [("coco_instances", 80), ("coco_panoptic_instances", 133)])
def test_instance_ap(coco, name, classes):
    """person: IoU 16 / 19 and 1; dog: a false positive, and one with IoU 0.4. The list of panoptic models also has stuff, which
    is no instance."""
    counts = []

    def predict(batch):
        counts.append(int(np.asarray(batch["class_valid"])[0].sum()))
        return class_masks(batch)

    scores = run(coco, name, predict)
    assert counts == [classes + 1]  # and the background
    # The right person has the higher score, as fewer of its pixels are at the border. From IoU 0.85 on, it is the only one:
    # recall 1/2, 51 of 101 points.
    person = (7 * 1 + 3 * 51 / 101) / 10
    assert scores["ap"] == pytest.approx((person + 0) / 2) and scores["ap50"] == pytest.approx(0.5)


# objects of a video

RED, BLUE, GREY = (200, 20, 20), (20, 20, 200), (128, 128, 128)


def draw_frame(red, blue):
    frame = np.full((SIDE, SIDE, 3), GREY, np.uint8)
    frame[red], frame[blue] = RED, BLUE
    return frame


@pytest.fixture
def davis(tmp_path):
    """A video of six frames. The red object is always found; the blue one is another object in frame 2 (its mask is elsewhere),
    and covers half of its mask in frame 3."""
    root, empty = tmp_path / "davis2017", make_block(0, 0, 0, 0)
    truth = [(make_block(4, 4 + 4 * t, 16, 16), make_block(36, 4 + 4 * t, 20, 20)) for t in range(6)]
    shown = list(truth)
    shown[2] = truth[2][0], empty
    shown[3] = truth[3][0], truth[3][1] & (np.arange(SIDE) < 4 + 4 * 3 + 10)
    for t, ((red, blue), seen) in enumerate(zip(truth, shown, strict=True)):
        frame, ids = draw_frame(*seen), np.zeros((SIDE, SIDE), np.uint8)
        ids[red], ids[blue] = 1, 2
        for folder, array, end in (("JPEGImages", frame, "jpg"), ("Annotations", ids, "png")):
            path = root / folder / "480p" / "clip" / f"{t:05d}.{end}"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(array)
            if end == "png":
                picture = Image.fromarray(array, "P")
                picture.putpalette([value for number in range(256) for value in (number,) * 3])
            picture.save(path, **({"quality": 100, "subsampling": 0} if end == "jpg" else {}))
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("clip\n")
    return tmp_path


def same_color(batch):
    """Finds the color that each region marks on the example image."""
    frames, examples = (np.asarray(batch[name])[:, 0].astype(float) for name in ("images", "example_images"))
    points, prompt = (np.asarray(batch[f"marked_{name}"])[:, 0] for name in ("points", "prompt"))
    present = np.asarray(batch["region_present"])
    masks = np.zeros((*present.shape, SIDE, SIDE), bool)
    for row, region in np.ndindex(present.shape):
        pixels = np.rint(points[row][prompt[row] == region][:, ::-1] * SIDE).astype(int)
        if len(pixels):
            color = np.median(examples[row][tuple(pixels.T)], axis=0)
            masks[row, region] = np.abs(frames[row] - color).max(-1) < 60
    scores = np.zeros((len(present), 1, 1, present.shape[1]), np.float32)
    return {"mask_logits": logits_of(masks, 1)[:, None, None], "region": scores, "region_valid": present[:, None, None]}


def test_objects_are_found_by_an_example_frame(davis):
    """J of the red object is 1; J of the blue one 1, 0, 1/2 and 1 in the frames that count: all but the first and the last. An
    empty prediction has F 0."""
    scores = run(davis, "davis2017", same_color)
    assert scores["count"] == 2 and scores["j"] == pytest.approx((1 + (1 + 0 + 0.5 + 1) / 4) / 2)
    assert 0.5 * (1 + 0.5) < scores["f"] < 0.5 * (1 + 0.75)  # half of the blue object has some of its boundary
    assert scores["jf"] == pytest.approx((scores["j"] + scores["f"]) / 2)


def make_small_model():
    """Returns a small SEEM with random weights, and the number of its encodings by part of a batch."""
    config, encoded = small_config(data__image_size=SIDE), collections.Counter()
    model = Model(config, SEEM.tokenizer(config), random_params(SEEM.shapes(config), seed=3, spread=0.3))
    for name, encode in model.engine.feature_cache._jitted.items():
        count = lambda *arrays, name=name, encode=encode: encoded.update([name]) or encode(*arrays)
        model.engine.feature_cache._jitted[name] = count
    return model, encoded


def test_frames_are_answered_alone_by_an_example_that_is_encoded_once(davis):
    """A query has one frame and the example, whatever the length of the video; its answer is that about the frame
    alone. A pixel belongs to one object."""
    model, encoded = make_small_model()
    line, config = benchmarks.BENCHMARKS["davis2017"], model.config
    task = benchmarks.open_task("davis2017", line, config, SEEM, str(davis))
    options = AnswerOptions(SCORINGS["davis"].kind, model.engine.answers.published)
    make = functools.partial(benchmark_run._make_protocol, model.engine, line, task, options)
    answered = run_protocols(
        model.engine, task, task.val, make, count=1, batch_size=1, options=options, on_unreadable=pytest.fail
    )
    (protocol,) = [protocol for _, finished in answered for _, protocol in finished]
    ((prompt, predictions),) = protocol.answers()
    assert encoded == {"image": 6, "example": 1}
    frames = protocol.example.frames
    for t in (1, 3, 5):
        alone = model.answer_round(frames[t], prompt.regions, example=frames[0])[0].masks
        one = alone.sum(0) == 1
        assert alone.any() and np.array_equal(predictions[t].masks[:, one], alone[:, one])
        assert (predictions[t].masks.sum(0) <= 1).all()


# trivial predictions


def trivial(root, name):
    line = benchmarks.BENCHMARKS[name]
    task = benchmarks.open_task(name, line, small_config(data__image_size=SIDE), SEEM, str(root))
    return trivial_scores(name, line, task.val, interactive=True)


def test_trivial_class_lists(coco):
    """Sky has the most pixels, 44 rows. On the first image IoU 44 / 63, as a row without a segment does not count; on the
    second it is a false positive."""
    panoptic, semantic = trivial(coco, "coco_panoptic"), trivial(coco, "coco_semantic")
    assert panoptic["nothing"]["pq"] == 0 and panoptic["nothing"]["classes"] == 4
    assert panoptic["most_frequent"]["pq"] == pytest.approx((44 / 63) / (1 + 0.5) / 4)
    assert semantic["most_frequent"]["aacc"] == pytest.approx(44 / 127)
    assert trivial(coco, "coco_instances") == {}


def test_trivial_videos(davis):
    """The masks of the first frame, which the objects leave by 4 pixels a frame: of 16 and 20 columns."""
    scores = trivial(davis, "davis2017")["first_frame"]
    overlap = lambda width: np.mean([max(width - 4 * t, 0) / (width + min(4 * t, width)) for t in range(1, 5)])
    assert scores["j"] == pytest.approx((overlap(16) + overlap(20)) / 2) and scores["count"] == 2


def test_an_unreadable_record_is_named(coco):
    (coco / "coco" / "val2017" / f"{1:012d}.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"^benchmark coco_panoptic record 1: "):
        trivial(coco, "coco_panoptic")
