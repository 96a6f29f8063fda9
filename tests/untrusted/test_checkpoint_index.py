"""The index of a checkpoint's arrays can unpack to a million times its size; it is measured before TensorStore reads it."""

import random

import fuzz
import pytest

from hyperseg_jax.untrusted import checkpoint_index
from hyperseg_jax.untrusted.bad_file import BadFile

LARGE = 2**30
SMALL = {"max_inline_value_bytes": 100, "max_decoded_node_bytes": 400}
CONFIG = {"max_inline_value_bytes": 2**20, "max_decoded_node_bytes": 2**32 - 1}


def write(folder, values, **config):
    """Writes an index with these keys and values, with TensorStore, in one node for each config["max_decoded_node_bytes"]."""
    import tensorstore

    spec = {"driver": "ocdbt", "base": f"file://{folder}/", "config": {**CONFIG, **config}}
    store, transaction = tensorstore.KvStore.open(spec).result(), tensorstore.Transaction()
    for key, value in values.items():
        store.with_transaction(transaction)[key] = value
    transaction.commit_sync()
    return folder


@pytest.fixture
def tree(tmp_path):
    """An index of three levels with 60 keys, half of whose values are in the nodes; 10,500 bytes of values."""
    values = {f"some/prefix/{k:05d}": b"x" * (50 if k % 2 else 300) for k in range(60)}
    return write(tmp_path, values, **SMALL)


def test_all_values_of_a_tree_are_counted(tree):
    checkpoint_index.check_index(tree, 0, 10_500)
    with pytest.raises(BadFile, match="its index has far more bytes of values than its arrays"):
        checkpoint_index.check_index(tree, 0, 10_499)


def test_the_newest_version_is_measured(tree):
    write(tree, {"more": b"x" * 50}, **SMALL)
    checkpoint_index.check_index(tree, 0, 10_550)
    with pytest.raises(BadFile, match="far more bytes of values"):
        checkpoint_index.check_index(tree, 0, 10_549)


@pytest.mark.parametrize(
    "values",
    [
        {"a": bytes(2**20), "b": bytes(2**20)},
        {f"{'k' * 30_000}{k:02d}": b"" for k in range(50)},  # keys share their beginning
        {f"{k:05d}": b"" for k in range(17_000)},
    ],
)
def test_a_small_file_that_unpacks_to_much_is_refused(tmp_path, monkeypatch, values):
    write(tmp_path, values)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 2**17
    checkpoint_index.check_index(tmp_path, 0, LARGE)
    monkeypatch.setattr(checkpoint_index, "UNPACKED", 2**20)
    checkpoint_index.check_index(tmp_path, 2**22, LARGE)
    with pytest.raises(BadFile, match="its index unpacks to far more bytes than its arrays"):
        checkpoint_index.check_index(tmp_path, 0, LARGE)


def test_many_nodes_and_entries_are_refused(tree, monkeypatch):
    monkeypatch.setattr(checkpoint_index, "NODES", 15)
    with pytest.raises(BadFile, match="its index has more than 15 nodes"):
        checkpoint_index.check_index(tree, 0, LARGE)
    monkeypatch.setattr(checkpoint_index, "ENTRIES", 2)
    with pytest.raises(BadFile, match="its index has more than 2 entries in a node"):
        checkpoint_index.check_index(tree, 0, LARGE)


def unpacked(data, magic):
    fields = checkpoint_index._Index(LARGE).unpack(data, magic)
    return fields.data


def pack(body, magic):
    """Returns the bytes of a manifest or node without compression."""
    return magic.to_bytes(4, "big") + (len(body) + 18).to_bytes(8, "little") + bytes(2) + body + bytes(4)


def test_damaged_fields_are_one_error(tree):
    manifest = (tree / "manifest.ocdbt").read_bytes()
    root = checkpoint_index._find_root(checkpoint_index._Index(LARGE), manifest)
    node = checkpoint_index._read_bytes(tree, root)
    rng, results = random.Random(0), set()
    bodies = [(unpacked(manifest, checkpoint_index.MANIFEST), checkpoint_index.MANIFEST, checkpoint_index._find_root)]
    bodies.append((unpacked(node, checkpoint_index.NODE), checkpoint_index.NODE, checkpoint_index._read_node))
    with fuzz.limit_resources(seconds=60, memory=2**33):
        for body, magic, read in bodies * 300:
            changed = bytearray(body[: rng.choice([len(body), rng.randrange(len(body))])])
            for _ in range(rng.randrange(3) if changed else 0):
                changed[rng.randrange(len(changed))] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
            try:
                read(checkpoint_index._Index(LARGE), pack(bytes(changed), magic))
                results.add("read")
            except BadFile as error:
                results.add(str(error))
    assert {"read", "its index is damaged; get another copy of it"} <= results


@pytest.mark.parametrize("place", [("d/../../x", 0, 10), ("/etc/passwd", 0, 10), ("d/0", 2**63, 10), ("d/0", 0, 2**40)])
def test_nodes_are_only_read_from_files_of_the_index(tmp_path, place):
    with pytest.raises(BadFile, match="its index has a node at"):
        checkpoint_index._read_bytes(tmp_path, place)


@pytest.mark.parametrize("damage", [b"", b"x" * 50, None])
def test_damaged_files_are_one_error(tree, damage):
    path = next((tree / "d").iterdir()) if damage is None else tree / "manifest.ocdbt"
    path.write_bytes(bytes(path.stat().st_size) if damage is None else damage)
    with pytest.raises(BadFile, match="its index is damaged"):
        checkpoint_index.check_index(tree, 0, LARGE)
