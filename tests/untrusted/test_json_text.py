"""Annotation files: nesting, size and digits within limits; what is read is what json reads."""

import json

import fuzz
import hypothesis.strategies as st
import numpy as np
import pytest

from hyperseg_jax.datasets import files
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import json_text, limits, strict_json
from hyperseg_jax.untrusted.bad_file import BadFile

TEXTS = st.text(st.characters(codec=None) | st.sampled_from('[]{}"\\'), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=30,
)


def nesting(value):
    inner = value if isinstance(value, list) else value.values() if isinstance(value, dict) else None
    return 0 if inner is None else 1 + max(map(nesting, inner), default=0)


def depth_is_right(value, block, ascii_only):
    data = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", errors="surrogatepass")
    before, json_text.BLOCK = json_text.BLOCK, block
    try:
        assert json_text.depth(data) == nesting(value)
    finally:
        json_text.BLOCK = before


def parsed_or_refused(data):
    """What json reads of the text, or one line."""
    found = fuzz.kept_promise(lambda: json_text.parse(data))
    if not isinstance(found, BadFile):
        assert repr(found) == repr(json.loads(json_text.decoded(data)))


DEPTHS = (VALUES, st.integers(1, 40), st.booleans())
RECORDS = {"images": [{"id": 1, "file_name": 'a"\\b.jpg', "size": [3.5, 1e9, -0.0, True, None]}], "\u00e9": [[[]], {}]}


def test_any_depth_and_damaged_text():
    fuzz.tried(depth_is_right, *DEPTHS, examples=60)
    fuzz.tried(parsed_or_refused, fuzz.damaged_json(RECORDS), examples=100)


@pytest.mark.slow
def test_any_depth_and_damaged_text_for_long(tried_long):
    either = st.one_of(st.tuples(*DEPTHS), fuzz.damaged_json(RECORDS))
    tried_long(lambda one: depth_is_right(*one) if isinstance(one, tuple) else parsed_or_refused(one), either)


@pytest.mark.parametrize(
    "text", ["[" * 200 + "]" * 200, '{"a":' * 200 + "1" + "}" * 200, "[" * 10**6, '["' + "]" * 999 + '",' + "[" * 500]
)
def test_deep_nesting(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"a\.json: nests deeper than 100; .*limits\.depth"):
        files.read_json(path)
    path.write_text(json.dumps(["[" * 500, '\\"' * 200 + "{" * 300]))
    assert files.read_json(path)[0] == "[" * 500


def test_size(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(list(range(100))))
    with limits.applied(json_bytes=50), pytest.raises(UserError, match=r"a\.json: has 390 bytes.*raise limits\.json_bytes"):
        files.read_json(path)


@pytest.mark.parametrize("text", ["1" * 5000, '{"a": ' + "9" * 10**6 + "}", "[1e999", "\x00", '"\x1b', "\xff\xfe"])
def test_what_is_no_json_is_one_line(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text, encoding="latin1")
    with pytest.raises(UserError, match=r"a\.json: not json") as told:
        files.read_json(path)
    assert str(told.value).isprintable()


def test_numbers_that_are_none():
    for value in (float("inf"), float("nan"), 10**4000, "5", None, [1], True, 1.5):
        record = {"height": value, "width": 5}
        with pytest.raises(UserError) as told:
            files.image_size(record, "here")
        assert len(str(told.value)) < 700 and str(told.value).startswith("here")


def test_names_of_python_are_names(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"__class__": 1, "__init__": 2, "a": 2}')
    assert files.Json(path, dict).content == {"__class__": 1, "__init__": 2, "a": 2}
    with pytest.raises(UserError, match="field '__len__' is missing"):
        files.field({}, "__len__", "here")


def test_parse_takes_bytes_of_either_coding():
    assert json_text.parse('"\u00e9"'.encode()) == json_text.parse('"\u00e9"'.encode("cp1252")) == "\u00e9"
    assert json_text.parse(b"\xef\xbb\xbf[1]") == [1]
    with pytest.raises(BadFile, match="not json"):
        json_text.parse(np.random.default_rng(0).bytes(100))


def test_numbers_that_are_not_finite_are_read_in_logs_alone_and_never_written_for_others():
    for text in ("NaN", "[-Infinity]", '{"a": 1e999}'):
        with pytest.raises(BadFile, match=r"it has the number -?(nan|inf)"):
            strict_json.parse_any(text.encode(), "it")
        assert strict_json.parse_any(text.encode(), "it", finite=False) is not None
    told = strict_json.dumps({"a": float("nan"), "b": [(0.5, float("inf"))], "c": None})
    assert strict_json.parse(told.encode(), "it") == {"a": None, "b": [[0.5, None]], "c": None}
