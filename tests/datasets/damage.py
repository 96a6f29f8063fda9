"""Functions that damage sample files, and the problems that a check reports."""

import json

import fuzz
import numpy as np
from PIL import Image

from hyperseg_jax.datasets import layouts
from hyperseg_jax.datasets.check import check_reader
from hyperseg_jax.errors import UserError


def edit_json(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def run_check(root, name, split=None):
    layout = layouts.find_layout(name)
    return check_reader(lambda: layout.open(root, split or layout.splits[-1]), lambda **_: None, threads=2)


def sorted_problems(result):
    return sorted((kind, message) for message, kind in result.collected.problems.items())


def truncate_file(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write_small_mask(path):
    Image.fromarray(np.zeros((5, 6), np.uint8)).save(path)


def write_rgb_mask(path):
    Image.fromarray(np.zeros((192, 192, 3), np.uint8)).save(path)


def write_unknown_labels(path):
    Image.fromarray(np.full((192, 192), 200, np.uint8)).save(path)


def edit_first(**fields):
    return lambda path: edit_json(path, lambda content: (content[0] if isinstance(content, list) else content).update(fields))


def edit_first_line(**fields):
    def edit(path):
        first, *rest = path.read_text().splitlines()
        path.write_text("\n".join([json.dumps(json.loads(first) | fields), *rest]))

    return edit


def edit_nested(*keys, **fields):
    def edit(content):
        for key in keys:
            content = content[key]
        content.update(fields)

    return lambda path: edit_json(path, edit)


def check(open_reader, *names):
    """Returns the problems of a reader, which are one line each and name one of the files; and the messages of records that
    cannot be read. Asserts that the check reports each of these."""
    report = check_reader(open_reader, lambda **_: None, threads=1)
    problems, errors = list(report.collected.problems), []
    try:
        reader = open_reader()
        for k in range(len(reader)):
            try:
                reader[k]
            except UserError as error:
                errors.append(str(error))
    except UserError as error:
        errors.append(str(error))
    for message in (*problems, *errors):
        fuzz.assert_one_line(message)
        fuzz.assert_plain_words(message, names)
    assert set(errors) <= set(problems)
    return problems, errors
