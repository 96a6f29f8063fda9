"""Values as exports write them (odd_values): each is read as what it means, or is one line that names the file, the record and
the field, in a check as in a reader."""

import copy

import fuzz
import hypothesis.strategies as st
import numpy as np
import pytest
from damage import check
from odd_values import AREA, CAPTIONS, COCO, FORMATS, KINDS, LINE, LLAVA, MISSING, REFUSED, annotation, write_mask

from hyperseg_jax.structs import Region

EXAMPLES = 40


def value_at(content, keys):
    for key in keys:
        content = content[key]
    return content


def put(content, keys, value):
    parent = value_at(content, keys[:-1])
    if value is MISSING:
        del parent[keys[-1]]
    else:
        parent[keys[-1]] = copy.deepcopy(value)


def odd_values(form):
    """Returns (value of the format, what is written, what it means) for all odd values of a format."""
    return [
        (place, written, meaning)
        for place in form.values
        for written, meaning in KINDS[place[2]](value_at(form.content[place[0]], place[1]))
    ]


def cases(form):
    """Returns a strategy for one to three odd values of a format, in different places."""
    return st.lists(st.sampled_from(odd_values(form)), min_size=1, max_size=3, unique_by=lambda odd: odd[0][:2])


def describe(value):
    """Returns a value of an example in a form that can be compared."""
    if isinstance(value, np.ndarray):
        return value.shape, value.tobytes()
    if isinstance(value, tuple):
        return tuple(map(describe, value))
    return {name: describe(item) for name, item in vars(value).items()} if isinstance(value, Region) else value


def read_all(reader):
    """Returns the content of all records."""
    examples = [reader[k] for k in range(len(reader))]
    prompts = [{name: describe(value) for name, value in vars(p).items()} for example in examples for p in example.prompts]
    return [(example.name, describe(example.frames), example.frame_names) for example in examples], prompts


def check_values(form, folder, odd):
    """Reads files with odd values, and files with what they mean."""
    written, meant = copy.deepcopy(form.content), copy.deepcopy(form.content)
    for (file, keys, _, _), value, meaning in odd:
        put(written[file], keys, value)
        if meaning is not REFUSED:
            put(meant[file], keys, meaning)
    form.write(folder, written)
    problems, errors = check(lambda: form.open_reader(folder), *form.content)
    refused = [place for place, _, meaning in odd if meaning is REFUSED]
    for file, keys, _, record in refused if len(refused) == 1 else ():
        field = next(key for key in reversed(keys) if isinstance(key, str))
        assert errors
        for message in errors:
            assert all(part in message for part in (file, record, field)), (message, file, record, field)
    assert bool(errors) == bool(refused), (errors, problems)
    if not refused:
        found = read_all(form.open_reader(folder))
        form.write(folder, meant)
        assert found == read_all(form.open_reader(folder)) and problems == []


def test_odd_values_mean_what_they_say(tmp_path):
    write_mask(tmp_path)
    content = copy.deepcopy(COCO.content)
    content["coco.json"]["annotations"] = [
        annotation(1, iscrowd="0", area=None),
        annotation("2", iscrowd=None, area="12.5", image_id="1", category_id="2"),
        annotation(3, iscrowd="1"),
    ]
    content["coco.json"]["categories"][1]["name"] = 7
    COCO.write(tmp_path, content)
    (prompt,) = COCO.open_reader(tmp_path)[0].prompts
    assert prompt.classes == ("bar", "7") and prompt.labels == (0, 1) and prompt.areas == (AREA, 12.5)
    assert prompt.masks.sum((1, 2, 3)).tolist() == [AREA, AREA] and prompt.crowd_labels == (0,)
    LLAVA.write(tmp_path, {"llava.json": [row | {"image": None} for row in LLAVA.content["llava.json"]]})
    assert LLAVA.open_reader(tmp_path).text_only == 1 and len(LLAVA.open_reader(tmp_path)) == 0
    CAPTIONS.write(tmp_path, {"captions.jsonl": [LINE | {"answer": None, "split": None, "group": 3}]})
    reader = CAPTIONS.open_reader(tmp_path)
    (prompt,) = reader[0].prompts
    assert (prompt.answer, prompt.group, reader.split_of(0)) == ("", "3", "")


@pytest.mark.parametrize("name", FORMATS)
def test_odd_values(tmp_path, name):
    form = FORMATS[name]
    form.write_others(tmp_path)
    fuzz.run_property(lambda odd: check_values(form, tmp_path, odd), cases(form), examples=EXAMPLES)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_odd_values_for_long(tmp_path, name, run_property_long):
    form = FORMATS[name]
    form.write_others(tmp_path)
    for odd in odd_values(form):
        check_values(form, tmp_path, [odd])
    run_property_long(lambda odd: check_values(form, tmp_path, odd), cases(form))
