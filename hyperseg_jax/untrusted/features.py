"""Reads the metadata of datasets prepared by tensorflow-datasets (features.json, dataset_info.json, labels) as data.

tensorflow-datasets itself would import the classes named in features.json, even in JSON inside its strings, and follow paths in
dataset_info.json; therefore it never gets these files.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from hyperseg_jax.untrusted import json_text, limits, paths
from hyperseg_jax.untrusted.bad_file import ANOTHER_COPY, BadFile, naming_path
from hyperseg_jax.untrusted.printing import escaped, escaped_value

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
"""The supported feature classes; none of them is imported."""
SHARDS, LONGEST_NAME = 100_000, 255
"""Maximum number of files of a split, and of characters of a name."""
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_DISTRUST = "the folder may be malicious, so do not open it with other tools"


@dataclasses.dataclass(frozen=True)
class Feature:
    """One feature. name: class name, one of CLASSES. parts: {name: feature} of a dict, or of a sequence of dicts."""

    name: str
    parts: Mapping[str, Feature]


def read_features(folder: pathlib.Path) -> Mapping[str, Feature]:
    """Reads the features of a prepared dataset. Raises UserError if a class is not in CLASSES."""
    path = folder / FEATURES
    with naming_path(path):
        feature = _parse_feature(_read_json(folder, FEATURES), limits.current().depth)
        if feature.name != DICT:
            raise BadFile(f"is a {escaped(feature.name)}, expected a FeaturesDict")
        return feature.parts


def _parse_feature(part: Any, depth: int) -> Feature:
    """Parses a feature in the current format {pythonClassName, featuresDict: ...} or the old one {type, content, proto_cls}."""
    if depth < 0:
        raise BadFile("nests deeper than limits.depth", _DISTRUST)
    if not isinstance(part, dict):
        raise BadFile(f"has a {type(part).__name__}, expected a feature")
    name = _first_field(part, "type", "pythonClassName", "python_class_name")
    if name not in CLASSES:
        raise BadFile(f"names the class {escaped_value(name)}, which is not a supported feature", _DISTRUST)
    content = _first_field(part, "content", "featuresDict", "features_dict", "sequence", "jsonFeature", "json_feature")
    while isinstance(content, str) or (isinstance(content, dict) and set(content) == {"json"}):
        if depth < 0:
            raise BadFile("nests deeper than limits.depth", _DISTRUST)
        text, depth = content if isinstance(content, str) else content["json"], depth - 1
        if not isinstance(text, str):
            raise BadFile("has a json field that is not a string", _DISTRUST)
        content = json_text.parse_json(text.encode(errors="surrogatepass"))
    if name == DICT:
        inner = content.get("features", content) if isinstance(content, dict) else {}
        if not isinstance(inner, dict):
            raise BadFile("has features that are not a dict")
        return Feature(name, {key: _parse_feature(value, depth - 1) for key, value in inner.items()})
    if name == SEQUENCE:
        if not isinstance(content, dict) or "feature" not in content:
            raise BadFile("has a sequence without a feature")
        return Feature(name, _parse_feature(content["feature"], depth - 1).parts)
    return Feature(name, {})


def _first_field(part: dict[str, Any], *names: str) -> Any:
    """Returns the first of several fields that exists, or None."""
    return next((part[name] for name in names if name in part), None)


def read_class_names(folder: pathlib.Path, feature: str) -> tuple[str, ...]:
    """Reads the class names of a feature ("objects-label"); () if there is no file with them."""
    name = f"{feature}.labels.txt"
    if not (folder / name).exists():
        return ()
    with naming_path(folder / name):
        text = json_text.decode_text(_read_bytes(folder, name))
    return tuple(line.strip() for line in text.split("\n") if line.strip())


@dataclasses.dataclass(frozen=True)
class Info:
    """The content of dataset_info.json. format: file format. splits: {split: {file: number of records}}."""

    format: str
    splits: Mapping[str, Mapping[pathlib.Path, int]]


def read_info(folder: pathlib.Path) -> Info:
    """Reads dataset_info.json. Raises UserError if it is invalid, if a split has more than limits.records records, or if it
    names files out of the folder."""
    with naming_path(folder / INFO):
        content = _read_json(folder, INFO)
        if not isinstance(content, dict):
            raise BadFile("is not a dict", ANOTHER_COPY)
        splits = {}
        try:
            for split in content.get("splits", ()):
                splits[str(split["name"])] = _list_shards(folder, str(content["name"]), split)
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            if isinstance(error, BadFile):
                raise
            raise BadFile("has a split without a name, or with fields of other types") from error
        return Info(str(content.get("fileFormat")), splits)


def _list_shards(folder: pathlib.Path, dataset: str, split: Mapping[str, Any]) -> dict[pathlib.Path, int]:
    """Returns {path: number of records} of the shards of a split."""
    lengths = [_parse_count(length) for length in split.get("shardLengths", ())]
    names = (dataset, split["name"], split.get("filepathTemplate", ""))
    if len(lengths) > SHARDS or any(len(str(text)) > LONGEST_NAME for text in names):
        raise BadFile("has a split with too many shards or too long a name", _DISTRUST)
    limit = limits.current().records
    if min(lengths, default=0) < 0 or sum(lengths) > limit:
        raise BadFile(f"lists {sum(lengths)} records, and the limit is {limit}", "if that is intended, raise limits.records")
    files = {}
    for k, length in enumerate(lengths):
        shard = f"{k:05d}-of-{len(lengths):05d}"
        name = str(split.get("filepathTemplate") or _TEMPLATE).replace("${", "{")
        for variable, value in (
            ("DATASET", dataset),
            ("SPLIT", str(split["name"])),
            ("FILEFORMAT", FORMAT),
            ("SHARD_X_OF_Y", shard),
            ("SHARD_INDEX", shard[:5]),
            ("NUM_SHARDS", shard[-5:]),
        ):
            name = name.replace(f"{{{variable}}}", value)
        if "[" in name or len(name) > LONGEST_NAME:  # ArrayRecord interprets a name with brackets as a slice of another file
            raise BadFile(f"names the file {escaped(name)}, which is not a shard of this folder", _DISTRUST)
        files[paths.join_inside(folder, name)] = length
    return files


def _parse_count(value: Any) -> int:
    """Returns a number of records, which proto3 writes as text. Raises BadFile for other values."""
    if type(value) is int or (isinstance(value, str) and re.fullmatch(r"-?\d{1,18}", value, re.ASCII)):
        return int(value)
    raise BadFile(f"has the shard length {escaped_value(value)}, expected a number")


def _read_json(folder: pathlib.Path, name: str) -> Any:
    try:
        return json_text.parse_json(_read_bytes(folder, name))
    except FileNotFoundError as error:
        raise BadFile("no such file", "give a folder prepared by tensorflow-datasets") from error


def _read_bytes(folder: pathlib.Path, name: str) -> bytes:
    return json_text.read_bytes(paths.join_inside(folder, name))
