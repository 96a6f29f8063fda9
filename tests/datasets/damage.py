"""Ways to damage the files of toy samples, and what a check says of them."""

import json

import numpy as np
from PIL import Image

from hyperseg_jax.datasets import layouts
from hyperseg_jax.datasets.check import check


def change(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def report(root, name, split=None):
    layout = layouts.find_layout(name)
    return check(lambda: layout.open(root, split or layout.splits[-1]), lambda **_: None, threads=2)


def found(result):
    return sorted((kind, message) for message, kind in result.collected.problems.items())


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def small(path):
    Image.fromarray(np.zeros((5, 6), np.uint8)).save(path)


def colours(path):
    Image.fromarray(np.zeros((192, 192, 3), np.uint8)).save(path)


def strange(path):
    Image.fromarray(np.full((192, 192), 200, np.uint8)).save(path)


def edited(**fields):
    return lambda path: change(path, lambda content: (content[0] if isinstance(content, list) else content).update(fields))


def first_line(**fields):
    def edit(path):
        first, *rest = path.read_text().splitlines()
        path.write_text("\n".join([json.dumps(json.loads(first) | fields), *rest]))

    return edit


def inside(*keys, **fields):
    def edit(content):
        for key in keys:
            content = content[key]
        content.update(fields)

    return lambda path: change(path, edit)
