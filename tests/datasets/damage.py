"""Functions that damage sample files, and the problems that a check reports."""

import json

import numpy as np
from PIL import Image

from hyperseg_jax.datasets import layouts
from hyperseg_jax.datasets.check import check_reader


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
