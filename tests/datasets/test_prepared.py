"""Folders prepared by tensorflow-datasets, written by small builders, without TensorFlow."""

import io
import json
import os
import pickle
import shutil

import fuzz
import numpy as np
import pytest
from PIL import Image
from sample_inputs import draw_regions

from hyperseg_jax.datasets.prepared import Prepared, Values
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import limits

SIZE = (20, 30)
SQUARE = np.zeros(SIZE, np.uint8)
SQUARE[4:9, 6:15] = 1
EXPECTED = SQUARE.astype(bool)
KINDS = ("instances", "referring", "captions", "labels")


def encode_image(array, kind):
    data = io.BytesIO()
    Image.fromarray(array).save(data, kind)
    data.seek(0)
    return data


def write_referring(folder, expressions=(b"the dog ", b"it"), count=None):
    """Nested lists are written manually, since tensorflow-datasets would need TensorFlow."""
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2

    root = write(folder, "instances")
    features = tfds.features
    refexp = features.Sequence({"refexp_id": np.int64, "raw": features.Text()})
    mask = features.Image(shape=(None, None, 1), encoding_format="png")
    parts = {
        "image": features.Image(encoding_format="jpeg"),
        "image/id": np.int64,
        "objects": features.Sequence({"mask": mask, "refexp": refexp}),
    }
    features.FeaturesDict(parts).save_config(root)
    (path,) = root.glob("*.array_record-*")
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for k in range(3):
        example = tf_example_pb2.Example()
        rows = example.features.feature
        rows["image"].bytes_list.value.append(encode_image(np.full((*SIZE, 3), 40 * k, np.uint8), "JPEG").read())
        rows["image/id"].int64_list.value.append(k)
        rows["objects/mask"].bytes_list.value.append(encode_image(SQUARE, "PNG").read())
        rows["objects/refexp/refexp_id/ragged_flat_values"].int64_list.value.extend(range(7, 7 + len(expressions)))
        rows["objects/refexp/raw/ragged_flat_values"].bytes_list.value.extend(expressions)
        for name in ("refexp_id", "raw"):
            rows[f"objects/refexp/{name}/ragged_row_lengths_0"].int64_list.value.append(
                len(expressions) if count is None else count
            )
        writer.write(example.SerializeToString())
    writer.close()
    return root


def write(folder, kind):
    import tensorflow_datasets as tfds

    features = tfds.features
    box = features.BBox(4 / 20, 6 / 30, 9 / 20, 15 / 30)
    label, mask = features.ClassLabel(names=["cat", "dog"]), features.Image(shape=(None, None, 1), encoding_format="png")
    inner = {
        "instances": {"label": label, "segmentation": mask},
        "captions": {"label": label, "bbox": features.BBoxFeature()},
    }
    values = {
        "instances": lambda: {"label": "dog", "segmentation": encode_image(SQUARE, "PNG")},
        "captions": lambda: {"label": "dog", "bbox": box},
    }

    class ToyBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        code_path = None  # no other files

        def _info(self):
            rest = {"annotation": mask} if kind == "labels" else {"objects": features.Sequence(inner[kind])}
            parts = {"image": features.Image(encoding_format="jpeg"), "image/id": np.int64, **rest}
            return tfds.core.DatasetInfo(builder=self, features=features.FeaturesDict(parts))

        def _split_generators(self, _):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for k in range(3):
                rest = {"annotation": encode_image(SQUARE * 2, "PNG")} if kind == "labels" else {"objects": [values[kind]()]}
                yield k, {"image": encode_image(np.full((*SIZE, 3), 40 * k, np.uint8), "JPEG"), "image/id": k, **rest}

    builder = ToyBuilder(data_dir=folder, file_format="array_record")
    builder.download_and_prepare()
    return builder.data_path


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    return {kind: write_referring(folder) if kind == "referring" else write(folder, kind) for kind, folder in folders.items()}


def test_expressions_of_a_record_are_limited(tmp_path):
    """A record of 4 bytes per expression is small in a compressed shard."""
    reader = Prepared(write_referring(tmp_path, [b"a"] * 500_000), "train")

    def refuse():
        with pytest.raises(UserError, match=r"train#0: has 50001 masks, and the limit is 50000; .*limits\.masks"):
            reader[0]

    fuzz.check_call(refuse, memory=2**27)
    with limits.temporary_limits(mask_pixels=600 * 9), pytest.raises(UserError, match=r"limits\.mask_pixels"):
        reader[0]


@pytest.mark.parametrize("count", [1, 5, -3, 0])
def test_row_lengths_match_the_values(tmp_path, count):
    reader = Prepared(write_referring(tmp_path, count=count), "train")
    with pytest.raises(UserError, match=r"train#0: the row lengths of field 'objects/refexp/\w+' do not match its values"):
        reader[0]


@pytest.mark.parametrize("kind", KINDS)
def test_examples_of_each_kind(prepared, kind):
    reader = Prepared(prepared[kind], "train", classes=("sky", "sea") if kind == "labels" else ())
    seen = set()
    for k in range(3):
        example = reader[k]
        shade = int(example.frames[0, 0, 0, 0])
        seen.add(shade)
        assert example.frames.shape == (1, *SIZE, 3)
        first, *rest = example.prompts
        if kind == "referring":
            assert [(p.text, p.key) for p in example.prompts] == [("the dog", "7"), ("it", "8")]
        else:
            assert not rest
        if kind in ("instances", "labels"):
            assert first.key == str(shade // 40) and first.labels == (1,)
            assert first.classes == (("cat", "dog") if kind == "instances" else ("sky", "sea"))
            assert first.things == (kind == "instances",) * 2
            assert first.ignore is None if kind == "instances" else np.array_equal(first.ignore[0], ~EXPECTED)
        if kind == "captions":
            assert first.captions == (("dog",),) and np.array_equal(draw_regions(first, EXPECTED.shape), EXPECTED[None])
        else:
            assert np.array_equal(first.masks, EXPECTED[None, None])
    assert seen == {0, 40, 80} and len({reader[k].name for k in range(3)}) == 3
    repeated = pickle.loads(pickle.dumps(reader))
    assert len(repeated) == 3 and np.array_equal(repeated[1].frames, reader[1].frames)


@pytest.mark.parametrize("kind", ["instances", "captions"])
@pytest.mark.parametrize("labels", [[-1], [2], [2**40], [0.7], [], [0, 1]])
def test_labels_without_a_class(prepared, monkeypatch, kind, labels):
    many = Values.values
    monkeypatch.setattr(Values, "values", lambda self, name: labels if name == "objects/label" else many(self, name))
    with pytest.raises(UserError, match=r"train#0.*(has the label .*there are 2 classes|has 1 objects and [02] labels)"):
        Prepared(prepared[kind], "train")[0]


@pytest.mark.parametrize(
    "kind, name, message",
    [
        ("instances", "image", "its image is 8000000000, but an image file was expected; prepare it again"),
        ("instances", "objects/segmentation", "a mask is 8000000000, but an image file was expected; prepare it again"),
        ("referring", "objects/mask", "a mask is 8000000000, but"),
        ("labels", "annotation", "a mask is 8000000000, but"),
    ],
)
def test_numbers_in_place_of_images(prepared, monkeypatch, kind, name, message):
    """bytes(number) would allocate that many bytes."""
    reader = Prepared(prepared[kind], "train", classes=("sky", "sea") if kind == "labels" else ())
    many = Values.values
    monkeypatch.setattr(Values, "values", lambda self, field: [8 * 10**9] if field == name else many(self, field))

    def refuse():
        with pytest.raises(UserError, match=f"train#0: {message}"):
            reader[0]

    fuzz.check_call(refuse, memory=2**28)


def test_names_of_features_are_escaped(prepared, tmp_path):
    folder = copy_prepared(prepared, tmp_path)
    features = json.loads((folder / "features.json").read_text())
    parts = features["featuresDict"]["features"]
    parts["\x1b[31m\n" + "x" * 5000] = parts.pop("image")
    (folder / "features.json").write_text(json.dumps(features))
    with pytest.raises(UserError, match=r"its features .*\\x1b\[31m\\n.* lack supported masks") as raised:
        Prepared(folder, "train")
    fuzz.assert_one_line(str(raised.value))


@pytest.mark.parametrize(
    ("kind", "name", "values", "message"),
    [
        ("captions", "objects/bbox", [0.0, float("inf"), 0.5, float("inf")], "its boxes are not four numbers each"),
        ("captions", "objects/bbox", [b"0", b"0", b"1", b"1"], "its boxes are not four numbers each"),
        ("captions", "objects/bbox", [0.0, 0.5, 0.5], "its boxes are not four numbers each"),
        ("referring", "objects/refexp/raw/ragged_flat_values", [1] * 9, "found 1, expected a text in UTF-8"),
        ("referring", "objects/refexp/raw/ragged_flat_values", [b"a\xff"] * 9, r"found b'a\\xff', expected a text in UTF-8"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_values_of_other_types(prepared, monkeypatch, kind, name, values, message):
    reader, read = Prepared(prepared[kind], "train"), Values.values

    def replace(self, field):
        found = read(self, field)
        return values[: len(found)] if field == name else found

    monkeypatch.setattr(Values, "values", replace)
    with pytest.raises(UserError, match=rf"train#0: {message}; prepare it again"):
        reader[0]


def test_tensorflow_is_not_imported(prepared):
    import sys

    Prepared(prepared["instances"], "train")[0]
    assert "tensorflow" not in sys.modules


def copy_prepared(prepared, tmp_path, kind="instances"):
    return shutil.copytree(prepared[kind], tmp_path / "1.0.0")


FOREIGN = "antigravity_of_mine.Image"
LEGACY = {"type": FOREIGN, "content": {"shape": [], "dtype": "uint8"}}
DICT = "tensorflow_datasets.core.features.features_dict.FeaturesDict"
SEQUENCE = "tensorflow_datasets.core.features.sequence_feature.Sequence"
PLACES = {  # fields that may name a class, also in JSON within a string
    "as written today": {"pythonClassName": FOREIGN, "image": {}},
    "in snake case": {"python_class_name": FOREIGN, "image": {}},
    "as written before": LEGACY,
    "in a json feature": {"pythonClassName": DICT, "jsonFeature": {"json": json.dumps({"a": LEGACY})}},
    "in a json feature in snake case": {"python_class_name": DICT, "json_feature": {"json": json.dumps({"a": LEGACY})}},
    "in a sequence": {"pythonClassName": SEQUENCE, "sequence": {"feature": LEGACY}},
    "in a sequence as json": {"pythonClassName": SEQUENCE, "jsonFeature": {"json": json.dumps({"feature": LEGACY})}},
    "in old content": {"type": DICT, "content": {"a": LEGACY}},
    "in the text of a message": {
        "type": DICT,
        "proto_cls": "tensorflow_datasets.FeaturesDict",
        "content": json.dumps({"features": {"a": {"pythonClassName": FOREIGN}}}),
    },
    "twice in text": {"pythonClassName": DICT, "jsonFeature": {"json": json.dumps({"json": json.dumps({"a": LEGACY})})}},
    "of the library, but not read": {"pythonClassName": "tensorflow_datasets.core.features.dataset_feature.Dataset"},
    "no text": {"pythonClassName": ["a"]},
    "nothing": {},
}


@pytest.mark.parametrize("place", PLACES)
def test_foreign_classes_are_never_imported(prepared, tmp_path, monkeypatch, place):
    """tensorflow-datasets would import antigravity_of_mine, which records its import."""
    folder = copy_prepared(prepared, tmp_path)
    (tmp_path / "antigravity_of_mine.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    features = json.loads((folder / "features.json").read_text())
    features["featuresDict"]["features"]["image"] = PLACES[place]
    (folder / "features.json").write_text(json.dumps(features))
    with pytest.raises(UserError, match=r"features\.json: names the class .*, which is not a supported feature"):
        Prepared(folder, "train")
    assert not (tmp_path / "marker").exists()


def test_features_in_the_legacy_format(prepared, tmp_path):
    folder = copy_prepared(prepared, tmp_path, "labels")
    legacy = lambda name: {"type": f"tensorflow_datasets.core.features.{name}", "content": {}}
    image = legacy("image_feature.Image")
    parts = {"image": image, "annotation": image, "image/id": legacy("feature.Tensor")}
    (folder / "features.json").write_text(json.dumps({"type": DICT, "content": json.dumps(parts)}))
    assert Prepared(folder, "train", classes=("sky", "sea"))[0].prompts[0].labels == (1,)
    (folder / "features.json").write_text(json.dumps({"type": DICT, "content": json.dumps(json.dumps(parts))}))
    assert Prepared(folder, "train", classes=("sky", "sea"))[0].prompts[0].labels == (1,)
    nested = "1"
    for _ in range(20):
        nested = json.dumps({"json": nested})
    (folder / "features.json").write_text(json.dumps({"type": DICT, "content": nested}))
    with limits.temporary_limits(depth=9), pytest.raises(UserError, match=r"features\.json: nests deeper than"):
        Prepared(folder, "train", classes=("sky", "sea"))


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        ({"name": "../../etc"}, r"leaves .*--limits outside=True"),
        ({"splits": [{"name": "train", "shardLengths": ["3"], "filepathTemplate": "/etc/passwd"}]}, r"--limits outside=True"),
        ({"splits": [{"name": "train", "shardLengths": [10**12]}]}, r"lists 1000000000000 records.*limits\.records"),
        ({"splits": [{"name": "train", "shardLengths": ["-1"]}]}, "lists -1 records"),
        (
            {"splits": [{"name": "train", "shardLengths": ["5"], "filepathTemplate": "x.array_record[0:5]"}]},
            "is not a shard of",
        ),
        ({"name": "{SPLIT}" * 20_000}, "too long a name"),
        ({"splits": [{"name": "train", "shardLengths": ["0"] * 300_000}]}, "too many shards"),
        ({"splits": [{"name": "train", "shardLengths": ["2"]}]}, "has 3 records, but dataset_info.json says 2"),
        ({"splits": [{"shardLengths": ["3"]}]}, "has a split without a name, or with fields of other types; get another"),
        ({"splits": 5}, "has a split without a name, or with fields of other types"),
        ({"splits": [{"name": "train", "shardLengths": ["1_0"]}]}, "has the shard length '1_0', expected a number"),
        ({"splits": [{"name": "train", "shardLengths": [True]}]}, "has the shard length True, expected a number"),
        ({"splits": [], "moduleName": "antigravity"}, "no split 'train'; available splits: "),
        ({"fileFormat": "\x1b[31m"}, r"has the format \\x1b\[31m"),
    ],
)
def test_invalid_dataset_info(prepared, tmp_path, edit, told):
    folder = copy_prepared(prepared, tmp_path)
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(info | edit))
    with pytest.raises(UserError, match=told):
        Prepared(folder, "train")


def test_invalid_folders(prepared, tmp_path):
    with pytest.raises(UserError, match="no split 'dev'; available splits: train"):
        Prepared(prepared["instances"], "dev")
    with pytest.raises(UserError, match="features have no class names"):
        Prepared(prepared["labels"], "train")
    with pytest.raises(UserError, match=r"pixel value 2, but there are 1 classes"):
        Prepared(prepared["labels"], "train", classes=("sky",))[0]
    with pytest.raises(UserError, match=r"features\.json: no such file"):
        Prepared(tmp_path, "train")
    folder = copy_prepared(prepared, tmp_path)
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    with pytest.raises(UserError, match="has the format tfrecord, which needs TensorFlow"):
        Prepared(folder, "train")


def test_special_files_as_shards(prepared, tmp_path):
    folder = shutil.copytree(prepared["instances"], tmp_path / "1.0.0")
    (path,) = folder.glob("*.array_record-*")
    path.rename(tmp_path / "away")
    makes = {
        "no such shard": lambda: None,
        "is not a regular file": lambda: os.mkfifo(path),
        r"is a link that leaves .*--limits outside=True": lambda: path.symlink_to(tmp_path / "away"),
    }
    for messages, make in makes.items():
        path.unlink(missing_ok=True)
        make()
        with pytest.raises(UserError, match=messages):
            Prepared(folder, "train")
    with limits.temporary_limits(outside=True):
        assert len(Prepared(folder, "train")) == 3
