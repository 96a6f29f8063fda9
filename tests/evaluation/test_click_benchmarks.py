"""Benchmarks of clicks, from files in the format of Pascal VOC to scores, for an interactive system.

The model is replaced by a rule: a pixel is predicted if it is near a pixel that is marked as on the object, and not near one
that is marked as beside it. The scores are computed again by loops over pixels.
"""

import numpy as np
import pytest
from PIL import Image
from seem_config import small_config

from hyperseg_jax.evaluation import benchmark_run, benchmarks, clicks
from hyperseg_jax.evaluation.engine import Engine
from hyperseg_jax.evaluation.trivial_scores import BASELINES, TargetStatistics, trivial_scores
from hyperseg_jax.metrics.clicks import LIMIT
from hyperseg_jax.structs import Prompt, Region
from hyperseg_jax.systems import system as systems

SIDE, ROUNDS = 64, 6
NEAR, NEAR_NEGATIVE = 4, 2
BORDER = 255
THRESHOLDS = (0.5, 0.8, 0.85, 0.9)
PIXELS = np.stack(np.mgrid[:SIDE, :SIDE], -1).reshape(-1, 2)


def near(pixels, distance):
    """Returns the pixels [H, W] within a distance of some of `pixels` [N, 2]."""
    if not len(pixels):
        return np.zeros((SIDE, SIDE), bool)
    return (((PIXELS[:, None] - pixels) ** 2).sum(-1).min(1) <= distance**2).reshape(SIDE, SIDE)


def rule(on, beside):
    return near(on, NEAR) & ~near(beside, NEAR_NEGATIVE)


class RuleEngine:
    """The rule as a model. calls: of each call, the memory and the pixels marked as on and beside each region of each row."""

    def __init__(self):
        self.calls = []
        self.engine = Engine(self.predict, None, systems.get("seem").answers, None, interactive=True)

    def predict(self, params, batch, features, memory):
        points, prompt, positive = (np.asarray(batch[f"marked_{name}"])[:, 0] for name in ("points", "prompt", "positive"))
        present = np.asarray(batch["region_present"])
        pixels = np.rint(points[..., ::-1] * SIDE).astype(int)
        marked = [
            [
                [pixels[row][(prompt[row] == region) & (positive[row] == sign)] for sign in (True, False)]
                for region in range(present.shape[1])
            ]
            for row in range(len(present))
        ]
        self.calls.append((memory, marked))
        masks = np.array([[rule(*pixels) for pixels in of_row] for of_row in marked])
        logits = np.where(masks, 9.0, -9.0).astype(np.float32)[:, None, None]
        scores = np.zeros(logits.shape[:4], np.float32)
        return {"mask_logits": logits, "region": scores, "region_valid": present[:, None, None]}, len(self.calls)


def write_voc(root, images):
    """Writes images in the layout of Pascal VOC. images: label images [H, W], 0 background, BORDER the border of objects."""
    voc = root / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationObject", "ImageSets/Segmentation"):
        (voc / folder).mkdir(parents=True)
    for k, labels in enumerate(images):
        Image.fromarray(np.full((*labels.shape, 3), 40 * k, np.uint8)).save(voc / "JPEGImages" / f"2007_{k:06d}.jpg")
        picture = Image.fromarray(labels.astype(np.uint8), "P")
        picture.putpalette([value for number in range(256) for value in (number,) * 3])
        picture.save(voc / "SegmentationObject" / f"2007_{k:06d}.png")
    names = "".join(f"2007_{k:06d}\n" for k in range(len(images)))
    (voc / "ImageSets" / "Segmentation" / "val.txt").write_text(names)
    return root


def seven_objects():
    """Seven objects of several sizes, one with a hole, with a border around each."""
    labels = np.zeros((SIDE, SIDE), np.uint8)
    for k, (top, left, height, width) in enumerate(
        [(2, 2, 9, 9), (2, 20, 6, 30), (16, 2, 20, 8), (16, 20, 14, 14), (16, 44, 10, 10), (44, 4, 7, 7), (40, 30, 18, 24)]
    ):
        labels[top - 1 : top + height + 1, left - 1 : left + width + 1] = BORDER
        labels[top : top + height, left : left + width] = k + 1
    labels[20:24, 24:28] = 0
    return labels


def one_object():
    labels = np.zeros((SIDE, SIDE), np.uint8)
    labels[20:32, 18:36] = 5
    return labels


def deepest(region):
    """Returns the pixel of a region that is farthest from all pixels outside, and from the outside of the image."""
    outside = np.ones((SIDE + 2, SIDE + 2), bool)
    outside[1:-1, 1:-1] = ~region
    others, own = np.argwhere(outside) - 1, np.argwhere(region)
    return own[((own[:, None] - others) ** 2).sum(-1).min(1).argmax()]


def square(center):
    pixels = center + np.stack(np.mgrid[-1:2, -1:2], -1).reshape(-1, 2)
    return pixels[((pixels >= 0) & (pixels < SIDE)).all(1)]


def click_ious(labels, start=lambda target: square(deepest(target))):
    """Returns the IoUs of each object after each prompt. start: the pixels that the first prompt marks."""
    numbers = [number for number in np.unique(labels) if number not in (0, BORDER)]
    counted, result = labels != BORDER, []
    for group in (numbers[:5], numbers[5:10]):
        targets = [labels == number for number in group]
        marks = [[start(target), np.zeros((0, 2), int)] for target in targets]
        taken = [np.zeros((SIDE, SIDE), bool) for _ in group]  # further clicks are elsewhere; inside of a box, they are not
        for own, (on, _) in zip(taken, marks, strict=True):
            own[tuple(on.T)] = start is not start_with_box
        ious = [[] for _ in group]
        while group and len(ious[0]) < ROUNDS and not (ious[0] and all(values[-1] > 0.9 for values in ious)):
            for target, values, mark, own in zip(targets, ious, marks, taken, strict=True):
                mask = rule(*mark)
                values.append((mask & target & counted).sum() / ((mask | target) & counted).sum())
                errors = target & ~mask & counted & ~own, mask & ~target & counted & ~own
                sign = 0 if errors[0].sum() > errors[1].sum() else 1
                if values[-1] < 0.925 and errors[sign].any():
                    mark[sign] = np.concatenate([mark[sign], click := square(deepest(errors[sign]))])
                    own[tuple(click.T)] = True
        result += ious
    return result


def start_with_box(target):
    return np.argwhere(fill_box(target))


def fill_box(target):
    return target.any(1, keepdims=True) & target.any(0, keepdims=True)


def expected_scores(ious):
    reached = [[next((k for k, x in enumerate(v, 1) if x >= least), None) for v in ious] for least in THRESHOLDS]
    names = [f"{100 * least:.0f}" for least in THRESHOLDS]
    scores = {f"noc@{name}": np.mean([k or LIMIT for k in row]) for name, row in zip(names, reached, strict=True)}
    scores |= {f"failed@{name}": np.mean([k is None for k in row]) for name, row in zip(names, reached, strict=True)}
    scores |= {f"iou@{k}": np.mean([values[min(k, len(values)) - 1] for values in ious]) for k in (1, 3, 5)}
    return scores | {"count": len(ious)}


def run(root, name, batch_size=1):
    """Returns the scores of a benchmark, and the calls of the model."""
    model, config = RuleEngine(), small_config(data__image_size=SIDE)
    line = benchmarks.BENCHMARKS[name]
    task = benchmarks.open_task(name, line, config, systems.get("seem"), str(root))
    return benchmark_run.run(model.engine, line, task, batch_size=batch_size).scorer.compute(), model.calls


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch):
    monkeypatch.setattr(clicks, "LIMIT", ROUNDS)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_clicks_on_pascal_voc(tmp_path, batch_size):
    """Images with seven objects and with one: two groups, and negative clicks; the border does not count."""
    labels = [seven_objects(), one_object()]
    scores, calls = run(write_voc(tmp_path, labels), "voc_clicks", batch_size)
    ious = [values for image in labels for values in click_ious(image)]
    expected = expected_scores(ious)
    assert scores == pytest.approx(expected)
    assert scores["count"] == 8 and 1 < scores["noc@50"] < scores["noc@80"] < scores["noc@90"] < LIMIT
    assert 0 < scores["failed@90"] < 1 and scores["iou@1"] < scores["iou@3"] < scores["iou@5"]
    first, last = calls[:2], calls[2 * (ROUNDS - 1) : 2 * ROUNDS]
    assert [memory for memory, _ in first] == [None, None]  # of the two groups of the first image
    assert [memory for memory, _ in last] == [2 * ROUNDS - 3, 2 * ROUNDS - 2]
    assert any(len(beside) >= 9 for _, marked in last for on, beside in marked[0])
    assert {len(marked[0]) for _, marked in calls} == {8}  # regions, whatever the group


def test_a_group_goes_on_until_its_last_object_is_found():
    """Alone, each object would need fewer rounds: the IoUs noted later count for the scores after k clicks."""
    ious = click_ious(seven_objects())
    assert len({len(values) for values in ious[:5]}) == 1
    assert any(max(values[:-1], default=0) > 0.9 for values in ious)


@pytest.mark.parametrize(("name", "start"), [("box", start_with_box), ("box_centre", lambda t: square(deepest(fill_box(t))))])
def test_boxes(tmp_path, name, start):
    """A box marks all of its pixels; as published, it is a click at its centre, here beside the object."""
    labels = one_object()
    labels[22:32, 21:36] = 0  # an L-shaped object
    scores, calls = run(write_voc(tmp_path, [labels]), f"voc_clicks_{name}")
    assert scores == pytest.approx(expected_scores(click_ious(labels, start)))
    on, _ = calls[0][1][0][0]
    assert len(on) == (12 * 18 if name == "box" else 9)


@pytest.mark.parametrize("name", ["circle", "scribble", "polygon"])
def test_drawn_shapes(tmp_path, name):
    """The first prompt is random; from its marks on, the rounds are those of the loop."""
    labels = one_object()
    scores, calls = run(write_voc(tmp_path, [labels]), f"voc_clicks_{name}")
    on, beside = calls[0][1][0][0]
    assert len(on) > 0 and not len(beside) and (name == "polygon" or (labels[tuple(on.T)] == 5).all())
    assert scores == pytest.approx(expected_scores(click_ious(labels, lambda target: on)))
    again, _ = run(tmp_path, f"voc_clicks_{name}")
    assert again == scores


def test_trivial_clicks(tmp_path):
    """A disc with the area of the one object, and the mean of all objects, which is the object itself."""
    labels = one_object()
    line, config = benchmarks.BENCHMARKS["voc_clicks"], small_config(data__image_size=SIDE)
    task = benchmarks.open_task("voc_clicks", line, config, systems.get("seem"), str(write_voc(tmp_path, [labels])))
    scores = trivial_scores("voc_clicks", line, task.val, interactive=True)
    target = labels == 5
    distance = np.hypot(*np.moveaxis(PIXELS.reshape(SIDE, SIDE, 2) - deepest(target), -1, 0))
    found = distance <= np.sqrt(12 * 18 / np.pi)
    assert scores["disc"]["iou@1"] == pytest.approx((found & target).sum() / (found | target).sum())
    assert scores["mean_mask"]["iou@1"] == 1 and scores["mean_mask"]["noc@90"] == 1 < scores["disc"]["noc@90"]


def test_the_newest_click_decides():
    """Discs of radius 5 around clicks on the object, from which one around a click beside it is taken away."""
    statistics = TargetStatistics()
    square_of_area = near(np.array([[32, 32]]), 5)
    statistics.add(Prompt("region", masks=square_of_area[None, None], labels=(0,)))
    points = np.array([[20.5, 20.5, 1], [40.5, 20.5, 1], [24.5, 20.5, 0]])
    prompt = Prompt("region", regions=(Region("point", points=points),))
    (mask,) = BASELINES["clicks"]["disc"](statistics, prompt, (SIDE, SIDE)).masks
    radius = np.sqrt(square_of_area.sum() / np.pi)
    first, second, beside = (near(np.array([[20, column]]), radius) for column in (20, 40, 24))
    assert np.array_equal(mask, (first | second) & ~beside) and (first & beside).any()
    drawn = Region.from_mask(near(np.array([[10, 10]]), 1.5), "scribble")
    (mask,) = BASELINES["regions"]["mark"](statistics, Prompt("region", regions=(drawn,)), (SIDE, SIDE)).masks
    assert mask.sum() == 9
