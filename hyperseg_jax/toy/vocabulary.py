"""The vocabulary of the toy world, and the words that are held out from training."""

from __future__ import annotations

VERSION = 1
"""Increased whenever the images or texts of a seed change."""
FILES = 3
"""Increased whenever a world gets further files, so that cached worlds are written again."""

SIZE = 192
"""Side of every image in pixels."""

COLORS = {
    "red": (212, 38, 38),
    "green": (44, 170, 62),
    "blue": (44, 76, 222),
    "yellow": (244, 220, 52),
    "purple": (142, 58, 188),
    "orange": (246, 136, 28),
    "cyan": (66, 208, 222),
    "white": (242, 242, 242),
    "pink": (250, 128, 192),
}
SHAPES = ("circle", "square", "triangle", "ring", "star", "cross", "heart")
DIAMETERS = {"small": (29.0, 36.0), "large": (50.0, 60.0)}
"""Ranges in pixels; the gap between them makes "larger" unambiguous."""

BACKGROUNDS = {
    "sand": (146, 130, 104),
    "grass": (58, 84, 54),
    "water": (56, 78, 102),
    "brick": (104, 68, 58),
    "stone": (104, 104, 108),
}

HELD_BACK_COLOR = "pink"
HELD_BACK_SHAPE = "heart"
KNOWN_COLORS = tuple(color for color in COLORS if color != HELD_BACK_COLOR)
KNOWN_SHAPES = tuple(shape for shape in SHAPES if shape != HELD_BACK_SHAPE)

UNSEEN_PAIRS = frozenset(
    {
        ("red", "star"),
        ("green", "ring"),
        ("blue", "triangle"),
        ("yellow", "cross"),
        ("purple", "circle"),
        ("orange", "square"),
    }
)
"""Pairs of a known colour and a known shape that never occur in train or val; the focus of the compositional split."""

ALL_PAIRS = tuple((color, shape) for shape in SHAPES for color in COLORS)
HELD_BACK_PAIRS = frozenset(pair for pair in ALL_PAIRS if HELD_BACK_COLOR in pair or HELD_BACK_SHAPE in pair)
KNOWN_PAIRS = tuple(pair for pair in ALL_PAIRS if pair not in UNSEEN_PAIRS and pair not in HELD_BACK_PAIRS)

CATEGORY_IDS = {f"{color} {shape}": k for k, (color, shape) in enumerate(ALL_PAIRS, start=1)} | {
    background: k for k, background in enumerate(BACKGROUNDS, start=len(ALL_PAIRS) + 1)
}
"""Category ids; the same in all files, including those with a subset of the categories."""


def pluralize(noun: str) -> str:
    """Returns the plural: 'cross' -> 'crosses', 'ring' -> 'rings'."""
    return noun + ("es" if noun.endswith("s") else "s")


def add_article(words: str) -> str:
    """Adds the indefinite article: 'orange ring' -> 'an orange ring'."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
