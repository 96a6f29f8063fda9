"""What is HyperSeg's own stands in systems/hyperseg, in the weight tables of modules, in shipped assets and published
scores."""

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1] / "hyperseg_jax"
OWN = {"systems", "encoders", "connectors", "decoders", "llms"}
"""Rooms of systems, and of modules with weight tables."""
WORDS = (
    # prompts and markers
    r"ASSISTANT",
    r"curious user",
    r"segmentation result",
    r"\[SEG\]",
    r"<(temporal|refer|seg|gt|cls)>",
    # sizes, fields and arrays of a batch
    r"clip_(encoder|images?|size)",
    r"mask_encoder",
    r"(pixel|mask)_decoder",
    r"perceiver",
    r"region_(sampler|images|valid)",
    r"uses_(expression|classes|regions)",
    r"fine_grained_query|next_query",
    # names of the released state dict
    r"seg_query|SEG_token|temporal_query|mgvp|local_project|vision_tower|mm_projector",
)
PATTERN = re.compile("|".join(WORDS))


def told(tree):
    """Names, and texts that are no docstrings."""
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.arg | ast.keyword):
            yield node.arg or ""


def test_shared_rooms_have_no_words_of_a_system():
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        place = path.relative_to(ROOT)
        if place.parts[0] not in OWN:
            found += [f"{place}: {text[:60]!r}" for text in told(ast.parse(path.read_text())) if PATTERN.search(text)]
    assert not found, "\n".join(found)


def test_the_words_are_those_of_hyperseg():
    """Each stands in its folder, so the list is of things that exist."""
    texts = [text for path in (ROOT / "systems" / "hyperseg").glob("*.py") for text in told(ast.parse(path.read_text()))]
    assert all(any(re.search(word, text) for text in texts) for word in WORDS)
