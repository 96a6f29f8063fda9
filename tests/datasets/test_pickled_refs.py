"""RefCOCO's refs files are pickles: every protocol is read, and malicious or malformed ones are refused."""

import pathlib
import pickle

import pytest

from hyperseg_jax.datasets import RefCocoRefs, refer_files
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import limits

WORDS = ["the 'left' cup", 'a "tall" one', "naïve café", "tab\there, line\nthere", "back\\slash", "x" * 70_000 + " é"]


def open_refs(samples, path, **options):
    folder = samples / "refer" / "refcoco"
    return RefCocoRefs(path, folder / "instances.json", samples / "coco" / "train2014", split="val", **options)


def make_refs(texts=WORDS, **changes):
    common = {
        "ann_id": 1,
        "image_id": 0,
        "split": "val",
        "category_id": 1,
        "file_name": "x.jpg",
        "flag": True,
        "score": 0.25,
        "big": 2**70,
        "nothing": None,
        "sent_ids": [0, 1],
        "empty": (),
        **changes,
    }
    return [
        common | {"ref_id": k, "sentences": [{"sent": text, "raw": text, "tokens": text.split()}]}
        for k, text in enumerate(texts)
    ]


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol(samples, tmp_path, protocol):
    path = tmp_path / "refs.p"
    texts = WORDS if protocol else WORDS[:-1]  # protocol 0 is of lines, and of none so long
    path.write_bytes(pickle.dumps(make_refs(texts), protocol))
    assert refer_files.read_refs(path) == make_refs(texts)
    assert refer_files.read_refs(path)[0]["flag"] is True
    reader = open_refs(samples, path)
    with limits.temporary_limits(letters=80_000):
        assert [reader[k].prompts[0].text for k in range(len(texts))] == [f"{text}." for text in texts]


def test_strings_of_python_2(samples, tmp_path):
    """Python 2 strings are quoted lines (protocol 0) or counted bytes (1 and 2)."""
    head = b"(dp1\nS'split'\np2\nS'val'\np3\nsS'ann_id'\nI1\nsS'image_id'\nI0\nsS'ref_id'\nL7L\ns"
    head += b"S'sentences'\n(lp4\n(dS'sent'\n"
    for text in (b'S"a dog\'s \\x41"\n', b"Va dog's \\u0041\n", b"U\x09a dog's A", b"T\x09\0\0\0a dog's A"):
        path = tmp_path / "refs.p"
        path.write_bytes(b"(lp0\n" + head + text + b"sasa.")
        if text[:1] == b"T":  # long ones are bytes in the machine
            with pytest.raises(UserError, match="'sentences'"):
                open_refs(samples, path)[0]
        else:
            (prompt,) = open_refs(samples, path)[0].prompts
            assert prompt.text == "a dog's A." and prompt.key == "7.0"


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "marker"


def hostile_pickles(marker):
    return {
        "reduce": (b"cposix\nsystem\n(Vtouch %b\ntR." % str(marker).encode(), "asks for posix.system"),
        "inst": (b"(Vtouch %b\niposix\nsystem\n." % str(marker).encode(), "asks for posix.system"),
        "stack global": (pickle.dumps(pathlib.PurePosixPath("x"), 4), "PurePosixPath"),
        "persistent": (b"P1\n.", "PERSID"),
        "no list": (b"(d.", "contains a dict, expected a list of refs"),
        "cut": (pickle.dumps(make_refs(), 0)[:-9], "without a newline|left|empty stack"),
        "a number that is none": (b"Ione\n.", "an invalid number"),
        "a number without end": (b"I" + b"1" * 10_000 + b"\n.", "an invalid number"),
        "a text without quotes": (b"Sabc\n.", "without quotes"),
        "a bad escape": (b"S'\\x4'\n.", "unknown escape"),
        "a line without end": (b"V" + b"a" * 2**20, "line without a newline"),
        "no mark": (b"l.", "never began"),
        "a name twice": (b"(Va\nI1\nVa\nI2\nd.", "a twice"),
        "an unkept value": (b"g5\n.", "reads memo 5"),
        "empty": (b"", "is empty"),
    }


@pytest.mark.parametrize("case", hostile_pickles(pathlib.Path("x")))
def test_hostile_files(samples, tmp_path, marker, case):
    body, message = hostile_pickles(marker)[case]
    path = tmp_path / "refs.p"
    path.write_bytes(body)
    with pytest.raises(UserError, match=message) as error:
        open_refs(samples, path)
    assert str(error.value).startswith(str(path)) and "download it again" in str(error.value)
    assert not marker.exists()


def test_the_malicious_pickle_runs_in_python(marker):
    """Python's own unpickler executes it, so the test above would detect the marker."""
    pickle.loads(hostile_pickles(marker)["reduce"][0])
    assert marker.exists()


def test_the_number_of_operations_is_bounded(samples, tmp_path, monkeypatch):
    monkeypatch.setattr(refer_files, "OPERATIONS", 1000)
    path = tmp_path / "refs.p"
    path.write_bytes(b"(" * 2000)
    with pytest.raises(UserError, match="more than 1000 operations"):
        open_refs(samples, path)


@pytest.mark.parametrize("field", ["split", "image_id", "ann_id", "ref_id"])
def test_deeply_shared_values_are_fast(samples, tmp_path, field):
    """2^60 members in a few hundred bytes."""
    shared = ()
    for _ in range(60):
        shared = (shared, shared)
    path = tmp_path / "refs.p"
    path.write_bytes(
        pickle.dumps(
            make_refs(["the cup"], **{field: shared}) if field != "ref_id" else [make_refs(["x"])[0] | {field: shared}]
        )
    )
    with pytest.raises(UserError, match=rf"field '{field}(\[0\])?' is"):
        open_refs(samples, path)[0]


@pytest.mark.parametrize("field", ["sentences", "ann_id", "ref"])
def test_lists_shared_by_many_refs_are_refused(samples, tmp_path, field):
    """3000 x 3000 members, in a few hundred kilobytes."""
    ref = {"split": "val", "image_id": 0, "ann_id": 1, "sentences": [{"sent": "the cup"}]}
    ref |= {"ann_id": [1] * 3000} if field == "ann_id" else {"sentences": ref["sentences"] * 3000}
    path = tmp_path / "refs.p"
    path.write_bytes(pickle.dumps([ref if field == "ref" else dict(ref) for _ in range(3000)]))
    with pytest.raises(
        UserError, match=r"refs\.p#\d+: its lists and those before it need at least \d+ bytes, but the file has"
    ) as excinfo:
        open_refs(samples, path)
    assert int(str(excinfo.value).split("#")[1].split(":")[0]) < 100
