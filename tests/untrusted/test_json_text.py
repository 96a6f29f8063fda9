"""Annotation files: limits of nesting, size and digits; results equal those of json."""

import json

import fuzz
import hypothesis.strategies as st
import pytest

from hyperseg_jax.datasets import fields, files
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import json_text, limits, strict_json
from hyperseg_jax.untrusted.bad_file import BadFile

TEXTS = st.text(st.characters(codec=None) | st.sampled_from('[]{}"\\'), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=30,
)


def nesting_depth(value):
    inner = value if isinstance(value, list) else value.values() if isinstance(value, dict) else None
    return 0 if inner is None else 1 + max(map(nesting_depth, inner), default=0)


def check_depth(value, block, ascii_only):
    data = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", errors="surrogatepass")
    before, json_text.BLOCK = json_text.BLOCK, block
    try:
        assert json_text.nesting_depth(data) == nesting_depth(value)
    finally:
        json_text.BLOCK = before


def check_parse(data):
    """Asserts the result of json, or a one-line error."""
    result = fuzz.check_call(lambda: json_text.parse_json(data))
    if not isinstance(result, BadFile):
        assert repr(result) == repr(json.loads(json_text.decode_text(data)))


DEPTHS = (VALUES, st.integers(1, 40), st.booleans())
RECORDS = {"images": [{"id": 1, "file_name": 'a"\\b.jpg', "size": [3.5, 1e9, -0.0, True, None]}], "\u00e9": [[[]], {}]}


def test_random_depths_and_damaged_text():
    fuzz.run_property(check_depth, *DEPTHS, examples=60)
    fuzz.run_property(check_parse, fuzz.damaged_json(RECORDS), examples=100)


@pytest.mark.slow
def test_random_depths_and_damaged_text_for_long(run_property_long):
    either = st.one_of(st.tuples(*DEPTHS), fuzz.damaged_json(RECORDS))
    run_property_long(lambda one: check_depth(*one) if isinstance(one, tuple) else check_parse(one), either)


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
    with (
        limits.temporary_limits(json_bytes=50),
        pytest.raises(UserError, match=r"a\.json: has 390 bytes.*raise limits\.json_bytes"),
    ):
        files.read_json(path)


@pytest.mark.parametrize("text", ["1" * 5000, '{"a": ' + "9" * 10**6 + "}", "[1e999", "\x00", '"\x1b'])
def test_invalid_json_is_one_line(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text, encoding="latin1")
    with pytest.raises(UserError, match=r"a\.json: is not valid JSON") as excinfo:
        files.read_json(path)
    assert str(excinfo.value).isprintable()


def test_non_finite_numbers_are_refused():
    for value in (float("inf"), float("nan"), 10**4000, "5.5", None, [1], True, 1.5):
        record = {"height": value, "width": 5}
        with pytest.raises(UserError) as excinfo:
            fields.declared_image_size(record, "here")
        assert len(str(excinfo.value)) < 700 and str(excinfo.value).startswith("here")


def test_python_names_are_ordinary_keys(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"__class__": 1, "__init__": 2, "a": 2}')
    assert files.Json(path, dict).content == {"__class__": 1, "__init__": 2, "a": 2}
    with pytest.raises(UserError, match="field '__len__' is missing"):
        fields.field({}, "__len__", "here")


def test_parse_accepts_utf8_with_and_without_bom():
    assert json_text.parse_json('"\u00e9"'.encode()) == "\u00e9"
    assert json_text.parse_json(b"\xef\xbb\xbf[1]") == [1]
    for encoding in ("cp1252", "cp1251", "gb2312", "shift_jis", "utf-16"):
        text = {"cp1252": "\u00e9", "cp1251": "\u0434\u043e\u043c"}.get(encoding, "\u5de6")
        with pytest.raises(BadFile, match=r"is not UTF-8 \(byte \d\); save it as UTF-8"):
            json_text.parse_json(f'"{text}"'.encode(encoding))


GERMAN = "der große grüne Stern “hier”"
CUT = GERMAN.encode().replace("ü".encode(), "ü".encode()[:1])


def test_damaged_utf8_is_no_other_encoding(tmp_path):
    assert json_text.find_encoding(GERMAN.encode("cp1252"), "cp1252") == "cp1252"
    assert json_text.find_encoding(CUT, "cp1252") == json_text.find_encoding(GERMAN.encode(), "cp1252") == "utf-8-sig"
    with pytest.raises(BadFile, match=r"is damaged \(byte 13 is not UTF-8\); download"):
        json_text.decode_text(CUT)
    path = tmp_path / "list.txt"
    path.write_bytes(CUT)
    with pytest.raises(UserError, match=r"list\.txt: is damaged \(byte 13"):
        files.read_lines(path, "list", "latin-1")
    path.write_bytes(GERMAN.replace("“hier”", "").encode("latin-1"))
    assert files.read_lines(path, "list", "latin-1") == ["der große grüne Stern "]
    with pytest.raises(UserError, match=r"list\.txt: is not UTF-8 \(byte \d+\); save it as UTF-8"):
        files.read_lines(path, "list")


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1251", "красная чашка"),
        ("gb2312", "红色的杯子"),
        ("shift_jis", "赤いカップ"),
        ("euc_kr", "빨간 컵"),
        ("cp1253", "το φλιτζάνι"),
    ],
)
def test_the_exceptions_are_western_texts_only(tmp_path, encoding, text):
    """Files that a benchmark has in a Western encoding do not make texts of other encodings readable as wrong letters."""
    path = tmp_path / "a.json"
    path.write_bytes(f'{{"text": ["{text}"]}}'.encode(encoding))
    with pytest.raises(UserError, match=r"a\.json: is not UTF-8 \(byte \d+\); save it as UTF-8"):
        files.read_json(path, "cp1252")
    path.write_bytes('{"text": ["it\u2019s “naïve” \u2013 the café…"]}'.encode("cp1252"))
    assert files.read_json(path, "cp1252") == {"text": ["it\u2019s “naïve” \u2013 the café…"]}
    with pytest.raises(UserError, match="is not UTF-8"):
        files.read_json(path)


def test_damaged_lines_hide_no_others(tmp_path):
    """A damaged line of UTF-8 is one bad record; a file in another encoding has no records, also where lines seem valid."""
    path = tmp_path / "lines.jsonl"
    sound, bad = f'{{"text": "{GERMAN}"}}'.encode(), '{"text": "grün"}'.encode().replace("ü".encode(), b"\xc3")
    path.write_bytes(b"\n".join([sound, bad, sound]))
    lines = files.JsonLines(path)
    assert lines[0] == lines[2] == {"text": GERMAN}
    with pytest.raises(UserError, match=r"lines\.jsonl line 2: is not UTF-8 \(byte 12\); save"):
        lines[1]
    path.write_bytes(b"\n".join([f'{{"text": "{GERMAN}"}}'.encode("cp1252"), '{"text": "联通"}'.encode("gb2312")]))
    with pytest.raises(UserError, match=r"lines\.jsonl: is not UTF-8 \(byte \d+\); save it as UTF-8"):
        files.JsonLines(path)[1]
    path.write_bytes(b"\xef\xbb\xbf" + sound)
    assert files.JsonLines(path)[0] == {"text": GERMAN}


def test_texts_with_half_a_character(tmp_path):
    """JSON can name one half of a character of two, which no text has."""
    path = tmp_path / "a.json"
    path.write_text(r'{"a": "x\ud83d", "b": ["\ude00"], "c": "\ud83d\ude00", "d": null}')
    record = files.read_json(path)
    assert fields.text_field(record, "c", "here") == "\U0001f600" and fields.optional_text_field(record, "d", "here") == ""
    for call in (lambda: fields.text_field(record, "a", "here"), lambda: fields.text_list_field(record, "b", "here")):
        with pytest.raises(UserError, match=r"here: field '[ab](\[0\])?' has the lone surrogate"):
            call()


def test_non_finite_numbers_are_only_read_in_logs_and_never_exported():
    for text in ("NaN", "[-Infinity]", '{"a": 1e999}'):
        with pytest.raises(BadFile, match=r"it has the number -?(nan|inf)"):
            strict_json.parse_any(text.encode(), "it")
        assert strict_json.parse_any(text.encode(), "it", finite=False) is not None
    messages = strict_json.dumps_finite({"a": float("nan"), "b": [(0.5, float("inf"))], "c": None})
    assert strict_json.parse(messages.encode(), "it") == {"a": None, "b": [[0.5, None]], "c": None}
