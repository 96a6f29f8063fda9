"""IFSeg's elements against the published data code: images of words, and images with label maps."""

import zlib

import ml_collections
import numpy as np
import ofa_dictionary
import pytest

from hyperseg_jax.encoders.resnet import STRIDE
from hyperseg_jax.ops.transforms import SideRule
from hyperseg_jax.structs import IGNORED, Example, Prompt
from hyperseg_jax.systems.ifseg import processor as processors
from hyperseg_jax.systems.ifseg.model import PADDING
from hyperseg_jax.systems.pixels import normalize_for_llm


def make_processor(tokenizer, side, sizes, **resize):
    data = {"image_size": side, "resize": {"short_side": 512, "long_side": 2048, "multiple": 32, **resize}}
    config = {"model": {"encoder": {"num_positions": 1026}}, "data": data}
    return processors.make_processor(ml_collections.ConfigDict(config), tokenizer, sizes)


@pytest.mark.golden("ifseg", r"artificial_image.*")
def test_elements_of_images_of_words(case, tmp_path, monkeypatch):
    classes, side = tuple(case.config["categories"]), case.config["patch_image_size"]
    example = Example("words", np.zeros((0, 1, 1, 3), np.uint8), (Prompt("panoptic", classes=classes),))
    names = sorted({key.split(".")[0] for key in case.inputs})
    source = case.outputs[f"{names[0]}.source"]
    tokenizer = ofa_dictionary.load_recorded(tmp_path, classes, source)
    longest = max(len(tokenizer.encode(name)) for name in classes)
    sizes = {"classes": len(classes) + 1, "class_length": longest + 1, "length": len(source) + 5, "words": 1}
    process = make_processor(tokenizer, side, sizes)
    for name in names:
        monkeypatch.setattr(processors, "random_grid", lambda *_, grid=case.inputs[f"{name}.grid"]: grid)
        element = process(example, train=True)
        text = element["text"]
        case.compare(f"{name}.source", text[text != PADDING])
        case.compare(f"{name}.patch_ids", element["cell_names"])
        words = element["class_words"][element["cell_names"].ravel()]
        case.compare(f"{name}.subword_ids", words[words != PADDING])
        case.compare(f"{name}.subword_cumlen", np.cumsum((words != PADDING).sum(1)).astype(np.int32))
        labels = element["labels"]
        case.compare(f"{name}.target_hist", np.bincount(labels.ravel(), minlength=len(classes)))
        code = zlib.crc32(labels.astype(np.uint8).tobytes())
        case.compare(f"{name}.target_crc32", np.array([code >> 16, code & 0xFFFF]))
        lines = [0, 1, side // 3, side // 2, side - 1]  # those that were recorded
        case.compare(f"{name}.target_rows", labels[lines])
        case.compare(f"{name}.target_cols", labels[:, lines].T)
    case.check()


@pytest.mark.golden("ifseg", r"resize_rule.*")
def test_sizes_of_images(case):
    """The canvas of an image is at least as large as the image, and its cells are those of the image."""
    long, short = case.config["scale"]
    rule = SideRule(short, long)
    for name, size in case.inputs.items():
        placed = rule.place(*size.tolist())
        case.compare(name, np.array(placed.filled, np.int32))
        case.compare(name.replace("size", "grid"), -(-np.array(placed.filled) // STRIDE))
        assert all(canvas >= side and canvas % STRIDE == 0 for canvas, side in zip(placed.padded, placed.filled, strict=True))
    case.check()


@pytest.mark.golden("ifseg", r"eval_image.*")
def test_elements_of_images(case, tmp_path):
    """The answers of the model are compared in test_ifseg_answers."""
    classes, image, labels = tuple(case.config["categories"]), case.inputs["image"], case.inputs["raw_label"].astype(int) - 1
    present = np.unique(labels[labels >= 0])
    masks = labels == present[:, None, None]
    prompt = Prompt("panoptic", classes=classes, masks=masks[:, None], labels=tuple(present.tolist()), ignore=labels[None] < 0)
    example = Example("image", image[None], (prompt,))
    tokenizer = ofa_dictionary.load_recorded(tmp_path, classes, case.outputs["source"][0])
    short = case.config["patch_image_size"]
    process = make_processor(tokenizer, short, {}, short_side=short, long_side=4 * short)
    element = process.for_bucket(process.bucket(example))(example, train=False)
    case.compare("source", element["text"][element["text"] != PADDING][None])
    height, width = element["filled"]
    pixels = np.asarray(normalize_for_llm(element["images"]))[:, :height, :width]
    case.compare("network_input", pixels.transpose(0, 3, 1, 2))
    found = processors.label_map(prompt, labels.shape)
    case.compare("label_map", np.where(found == IGNORED, len(classes), found))
    compared = {name for name, *_ in case.rows}
    case.check(skipped=case.outputs.keys() - compared)
