"""What a dataset that tensorflow-datasets prepared says of itself: features.json, dataset_info.json and labels, read as data.

tensorflow-datasets itself would import what features.json names as a class, also in JSON inside of its strings, and follow the
paths of dataset_info.json; it is never given either.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from hyperseg_jax.untrusted import json_text, limits, paths
from hyperseg_jax.untrusted.bad_file import ANOTHER_COPY, BadFile, naming
from hyperseg_jax.untrusted.printing import shown, shown_value

FEATURES, INFO = "features.json", "dataset_info.json"
FORMAT = "array_record"
_CORE = "tensorflow_datasets.core.features."
DICT, SEQUENCE = f"{_CORE}features_dict.FeaturesDict", f"{_CORE}sequence_feature.Sequence"
IMAGES = (f"{_CORE}image_feature.Image", f"{_CORE}labeled_image.LabeledImage")
CLASSES = (
    DICT,
    SEQUENCE,
    *IMAGES,
    f"{_CORE}class_label_feature.ClassLabel",
    f"{_CORE}bounding_boxes.BBoxFeature",
    f"{_CORE}bbox_feature.BBoxFeature",
    f"{_CORE}text_feature.Text",
    f"{_CORE}tensor_feature.Tensor",
    f"{_CORE}feature.Tensor",
    f"{_CORE}scalar.Scalar",
)
"""The feature classes that are read; nothing is imported for any of them."""
SHARDS, LONGEST_NAME = 100_000, 255
"""Files of a split, and letters of a name, at most."""
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_DISTRUST = "do not open this folder with other tools either"


@dataclasses.dataclass(frozen=True)
class Feature:
    """One feature. name: of its class, one of CLASSES. parts: of a dict, or of a sequence of dicts, by name."""

    name: str
    parts: Mapping[str, Feature]


def read_features(folder: pathlib.Path) -> Mapping[str, Feature]:
    """The features of the records of a prepared dataset. UserError where a class is not among CLASSES."""
    path = folder / FEATURES
    with naming(path):
        found = _feature(_parsed(folder, FEATURES), limits.in_force().depth)
        if found.name != DICT:
            raise BadFile(f"is a {shown(found.name)} where a FeaturesDict belongs")
        return found.parts


def _feature(part: Any, depth: int) -> Feature:
    """A feature as it is written today {pythonClassName, featuresDict: ...}, or was before {type, content, proto_cls}."""
    if depth < 0:
        raise BadFile("nests deeper than limits.depth", _DISTRUST)
    if not isinstance(part, dict):
        raise BadFile(f"has a {type(part).__name__} where a feature belongs")
    name = _either(part, "type", "pythonClassName", "python_class_name")
    if name not in CLASSES:
        raise BadFile(f"names the class {shown_value(name)}, which is not among the features that are read", _DISTRUST)
    content = _either(part, "content", "featuresDict", "features_dict", "sequence", "jsonFeature", "json_feature")
    while isinstance(content, str) or (isinstance(content, dict) and set(content) == {"json"}):
        if depth < 0:
            raise BadFile("nests deeper than limits.depth", _DISTRUST)
        text, depth = content if isinstance(content, str) else content["json"], depth - 1
        if not isinstance(text, str):
            raise BadFile("has a json field that is no text", _DISTRUST)
        content = json_text.parse(text.encode(errors="surrogatepass"))
    if name == DICT:
        inner = content.get("features", content) if isinstance(content, dict) else {}
        if not isinstance(inner, dict):
            raise BadFile("has features that are no dict")
        return Feature(name, {key: _feature(value, depth - 1) for key, value in inner.items()})
    if name == SEQUENCE:
        if not isinstance(content, dict) or "feature" not in content:
            raise BadFile("has a sequence of nothing")
        return Feature(name, _feature(content["feature"], depth - 1).parts)
    return Feature(name, {})


def _either(part: dict[str, Any], *names: str) -> Any:
    return next((part[name] for name in names if name in part), None)


def read_labels(folder: pathlib.Path, feature: str) -> tuple[str, ...]:
    """The names of the classes of a feature ("objects-label"); none where no file has them."""
    try:
        text = json_text.decoded(_content(folder, f"{feature}.labels.txt"))
    except FileNotFoundError:
        return ()
    return tuple(line.strip() for line in text.split("\n") if line.strip())


@dataclasses.dataclass(frozen=True)
class Info:
    """What dataset_info.json says. format: of its files. splits: the files of each and how many records they have."""

    format: str
    splits: Mapping[str, Mapping[pathlib.Path, int]]


def read_info(folder: pathlib.Path) -> Info:
    """UserError where it is none, or where its splits have more than limits.records, or files that are not of the folder."""
    with naming(folder / INFO):
        content = _parsed(folder, INFO)
        if not isinstance(content, dict):
            raise BadFile("holds no dict", ANOTHER_COPY)
        splits = {}
        try:
            for split in content.get("splits", ()):
                splits[str(split["name"])] = _files(folder, str(content["name"]), split)
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            if isinstance(error, BadFile):
                raise
            raise BadFile(f"has a split in an unexpected format ({type(error).__name__}: {shown(str(error))})") from error
        return Info(str(content.get("fileFormat")), splits)


def _files(folder: pathlib.Path, dataset: str, split: Mapping[str, Any]) -> dict[pathlib.Path, int]:
    lengths = [int(length) for length in split.get("shardLengths", ())]
    names = (dataset, split["name"], split.get("filepathTemplate", ""))
    if len(lengths) > SHARDS or any(len(str(text)) > LONGEST_NAME for text in names):
        raise BadFile("has a split of too many shards or too long a name", _DISTRUST)
    most = limits.in_force().records
    if min(lengths, default=0) < 0 or sum(lengths) > most:
        raise BadFile(f"promises {sum(lengths)} records, and the limit is {most}", "if that is right, raise limits.records")
    found = {}
    for k, length in enumerate(lengths):
        place = f"{k:05d}-of-{len(lengths):05d}"
        name = str(split.get("filepathTemplate") or _TEMPLATE).replace("${", "{")
        for variable, value in (
            ("DATASET", dataset),
            ("SPLIT", str(split["name"])),
            ("FILEFORMAT", FORMAT),
            ("SHARD_X_OF_Y", place),
            ("SHARD_INDEX", place[:5]),
            ("NUM_SHARDS", place[-5:]),
        ):
            name = name.replace(f"{{{variable}}}", value)
        if "[" in name or len(name) > LONGEST_NAME:  # ArrayRecord takes a name with brackets for a part of another file
            raise BadFile(f"names the file {shown(name)}, which is no shard of this folder", _DISTRUST)
        found[paths.inside(folder, name)] = length
    return found


def _parsed(folder: pathlib.Path, name: str) -> Any:
    try:
        return json_text.parse(_content(folder, name))
    except FileNotFoundError as error:
        raise BadFile("no such file", "give a folder that tensorflow-datasets prepared") from error


def _content(folder: pathlib.Path, name: str) -> bytes:
    return json_text.read_bytes(paths.inside(folder, name))
