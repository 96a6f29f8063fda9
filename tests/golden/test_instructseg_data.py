"""InstructSeg's prompts, labels, pixels, masks and schedule against the published data code."""

import json

import numpy as np
import pytest
from golden_case import find_files

from hyperseg_jax import config as configs
from hyperseg_jax.datasets import masks
from hyperseg_jax.datasets.frame_sampling import Sampling
from hyperseg_jax.ops.transforms import fit_to_square, resize_and_pad, resize_and_pad_map, stretch_to_square
from hyperseg_jax.structs import Prompt
from hyperseg_jax.systems.instructseg.prompts import normalize_prompt, tokenize_prompt
from hyperseg_jax.systems.pixels import GREY, normalize_for_llm, normalize_for_masks
from hyperseg_jax.text.expressions import join_sentences
from hyperseg_jax.training.param_groups import schedule


class ByteTokenizer:
    """The case's tokenizer: one id per UTF-8 byte."""

    def __init__(self, table):
        self.eos_id, self._seg = table["eos_and_pad"], table["SEG"]
        self._ids = {int(byte): token for byte, token in table["byte_to_id"].items()}

    def id_of(self, token):
        return {"[SEG]": self._seg}[token]

    def encode(self, text):
        return [self._ids[byte] for byte in text.encode()]


@pytest.mark.golden("instructseg", r"data_pipeline.*")
def test_data_pipeline(case):
    samples = case.meta["samples"]
    tokenizer = ByteTokenizer(samples["tokenizer"])
    prompts = {
        "referring_coco": lambda s: [Prompt("referring", join_sentences(s["sentences"]))],
        "reason_seg_plain": lambda s: [Prompt("reasoning", s["annotation"]["text"][0])],
        "reason_seg_explain": lambda s: [Prompt("reasoning", s["refer_text"].removesuffix("[SEG]"), answer=s["explanation"])],
        "reason_seg_eval": lambda s: [Prompt("reasoning", s["refer_text"].removesuffix("[SEG]"))],
        "rvos_train": lambda s: [Prompt("video", join_sentences(s["sentences"]))],
        "refdavis_eval": lambda s: [Prompt("video", text.removesuffix(".[SEG]")) for text in s["refer_text"]],
        "refyoutube_eval": lambda s: [Prompt("video", text.removesuffix(".[SEG]")) for text in s["refer_text"]],
        "revos_train": lambda s: [Prompt("video", s["expression"], needs_reasoning=True)],
        "revos_eval": lambda s: [Prompt("video", s["refer_text"].removesuffix("[SEG]"), needs_reasoning=True)],
        "mm_conv": lambda s: [_conversation(s)],
        "vqa_eval": lambda s: [Prompt("chat", s["text"].removeprefix("<image>"))],
    }
    for name, make in prompts.items():
        sample = samples[name]
        for k, prompt in enumerate(make(sample)):
            tokens = tokenize_prompt(normalize_prompt(prompt), tokenizer, train=not name.startswith(("refdavis", "vqa")))
            same = lambda what, ours, name=name, k=k: case.compare(f"{name}/{k}/{what}", np.array(ours[0]), np.array(ours[1]))
            same("input_ids", (tokens.ids, sample["input_ids"]))
            if "labels" in sample:
                same("labels", (tokens.labels, sample["labels"]))
            if "token_refer_id" in sample:
                wanted = sample["token_refer_id"]
                same("token_refer_id", (tokens.expression, wanted[k] if isinstance(wanted[0], list) else wanted))
    _compare_sampling(case, samples["frame_sampling_statistics"])
    _compare_pixels(case)
    masks_of_videos = ("rvos/gt_mask", "revos/gt_mask_union_of_objects")  # the case does not have their annotations
    expanded = ("refcoco/attention_mask", "refcoco/refer_embedding_indices")  # compared with end-to-end cases
    case.check(skipped=(*masks_of_videos, *expanded))


def _conversation(sample):
    """Returns the prompt of the two rounds of a conversation."""
    rounds = sample["prompt_with_placeholders"].split("USER: ")[1:]
    pairs = [round.removesuffix("<|endoftext|>").split(" ASSISTANT: ") for round in rounds]
    (first, answer), (question, last) = pairs
    return Prompt("chat", question, answer=last, history=((first.removeprefix("<image>\n"), answer),))


def _compare_sampling(case, recorded):
    """The key frame and the order of its reference frames in training clips, by their frequencies."""
    length, count = recorded["video_length"], recorded["samples"]
    rng, sampling = np.random.default_rng(0), Sampling(5, "references")
    drawn = np.array([sampling.sample_frame_indices(length, rng) for _ in range(20 * count)])
    keys = np.bincount(drawn[:, 0], minlength=length) / 20
    spread = np.sqrt(np.maximum(keys, 1) * (1 + 1 / 20))
    assert (np.abs(keys - recorded["key_frame_histogram"]) < 4 * spread).all(), keys
    share = float((drawn[:, 1] > drawn[:, 2]).mean())
    assert abs(share - recorded["fraction_reversed"]) < 4 * np.sqrt(0.3 * 0.7 / count), share
    for clip in recorded["first_20"]:
        ordered = [*clip[1:3], clip[0], *clip[3:]]
        assert ordered in (sorted(clip), sorted(clip)[::-1])  # as ours: the key frame is the middle one
    for clip in drawn[:200].tolist():
        assert [*clip[1:3], clip[0], *clip[3:]] in (sorted(clip), sorted(clip)[::-1])


def _compare_pixels(case):
    """Images for both branches, and masks of polygons and bitmaps."""
    samples, size, clip_size = case.meta["samples"], case.config["image_size"], case.config["siglip_size"]
    channels_first = lambda image: np.moveaxis(np.asarray(image), -1, 0)

    def compare_image(prefix, frame):
        geometry = fit_to_square(*frame.shape[:2], size)
        padding = np.ones(geometry.padded, bool)
        padding[: geometry.filled[0], : geometry.filled[1]] = False
        case.compare(f"{prefix}/image", channels_first(normalize_for_masks(resize_and_pad(frame, geometry, GREY))))
        case.compare(f"{prefix}/padding_mask", padding)
        return geometry

    first, second = case.inputs["image_a"], case.inputs["image_b"]
    geometry = compare_image("refcoco", first)
    clip = normalize_for_llm(stretch_to_square(first, clip_size))
    case.compare("refcoco/images_clip", channels_first(clip)[None])
    polygons = samples["referring_coco"]["polygon"]
    case.compare("refcoco/gt_mask", _polygon_mask(polygons, first.shape[:2], geometry)[None])
    whole = masks.decode_segmentation(polygons, *first.shape[:2], "the case", polygons="coco")
    ours = resize_and_pad_map(whole.astype(np.uint8), geometry) > 0
    wrong = float((ours != case.outputs["refcoco/gt_mask"][0].astype(bool)).sum() / ours.sum())
    assert wrong < 0.05, wrong
    case.notes.append(f"refcoco/gt_mask: {wrong:.1%} of the pixels differ if polygons are filled first, as in training")
    geometry = compare_image("reason", second)
    target = _reasonseg_mask(samples["reason_seg_plain"]["annotation"], second.shape[:2])
    case.compare("reason/gt_mask", resize_and_pad_map(target.astype(np.uint8), geometry)[None])
    case.compare("reason_eval/gt_mask_original_size", target[None])
    key = case.inputs["rvos_key_frame"]
    case.compare("rvos/images_clip_key_frame", channels_first(normalize_for_llm(stretch_to_square(key, clip_size))))
    case.compare("rvos/image_shape", np.array([1, 3, *fit_to_square(*key.shape[:2], size).padded]))
    case.compare("rvos/images_clip_shape", np.array([1, 5, 3, clip_size, clip_size]))


def _polygon_mask(polygons, size, geometry):
    """Rasterizes polygons at the size of the model's input, as the published code does in training."""
    scale = np.array(geometry.filled[::-1]) / np.array(size[::-1])
    scaled = [(np.reshape(polygon, (-1, 2)) * scale).ravel().tolist() for polygon in polygons]
    mask = np.zeros(geometry.padded, bool)
    filled = geometry.filled
    mask[: filled[0], : filled[1]] = masks.decode_segmentation(scaled, *filled, "the case", polygons="coco")
    return mask


def _reasonseg_mask(annotation, size):
    """The target, with the "ignore" polygons as background, as in the published code."""
    target = np.zeros(size, bool)
    by_label = lambda label: [shape["points"] for shape in annotation["shapes"] if label in shape["label"]]
    for points in by_label("target"):
        target |= masks.fill_polygons([np.array(points)], *size, "the case")
    for points in by_label("ignore"):
        target &= ~masks.fill_polygons([np.array(points)], *size, "the case")
    return target


def test_the_recipe_has_the_recorded_schedule_and_ratios():
    """Those of configs/instructseg_3b.py, for one size of its batch."""
    config = configs.load("instructseg_3b")
    optimizer = config.optimizer
    ours = schedule(optimizer.learning_rate, optimizer.warmup_steps, config.train.steps, optimizer.final_rate)
    assert optimizer.betas == (0.9, 0.999) and not any(group["decay"] for group in optimizer.param_groups)  # not in the table
    names = dict(
        referring="refer_image",
        chat="conversation",
        referring_video="refer_video",
        reasoning="reason_image",
        video="reason_video",
    )
    paths = find_files("instructseg", "train_schedule/table.json")
    assert paths
    for path in paths:
        table = json.loads(path.read_text())
        steps, values = np.array(table["learning_rate"]["points"]).T
        np.testing.assert_allclose([float(ours(int(step))) for step in steps], values, rtol=2e-5, atol=1e-12)
        assert {names[name]: task.ratio for name, task in config.data.tasks.items()} == table["ratio"]
