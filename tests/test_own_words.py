"""HyperSeg-specific terms occur only in systems/hyperseg, weight tables, shipped assets and published scores."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1] / "hyperseg_jax"
OWN = {"systems", "encoders", "connectors", "decoders", "llms"}
"""Rooms of systems, and of modules with weight tables."""
WORDS = (
    # prompts and markers
    r"ASSISTANT",
    r"USER:",
    r"curious user",
    r"segmentation result",
    r"do(ing)? (Panoptic|Referring|Reasoning) Segmentation",
    r"by given regions",
    r"following instruction",
    r"candidate categories",
    r"\[SEG\]",
    r"<region>",
    r"<temporal>",
    r"<refer>",
    r"<seg>",
    r"<gt>",
    r"<cls>",
    r"\bMarker\b",
    # sizes, fields and arrays of a batch
    r"clip_(encoder|images?|size)",
    r"mask_encoder",
    r"(pixel|mask)_decoder",
    r"perceiver|Perceiver",
    r"region_(sampler|images|valid)",
    r"uses_(expression|classes|regions)",
    r"fine_grained_query",
    r"next_query",
    # names of the released state dict
    r"seg_query",
    r"SEG_token",
    r"temporal_query",
    r"mgvp",
    r"local_project",
    r"vision_tower",
    r"mm_projector",
    r"sem_seg_head",
    r"predictor\.",
    r"SEG_proj",
    r"lm_head",
    r"adapter_1",
    r"level_embed",
    # the system itself
    r"^hyperseg$",
)
NUMBERS = (123.675, 116.28, 103.53, 58.395, 57.12, 57.375)
"""Its pixel normalization. Its grey value, sizes and thresholds are also used by others."""
PIXEL_STATISTIC = "pixel statistic:"
ALLOWED = ("commands/main.py: 'hyperseg'", "renamed_fields.py: 'hyperseg'")
"""The name of the program, and a value of earlier configs."""
PATTERN = re.compile("|".join((*WORDS, PIXEL_STATISTIC)))


def list_terms(tree):
    """Yields names, strings other than docstrings, and values of NUMBERS."""
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value
        elif isinstance(node, ast.Constant) and node.value in NUMBERS and not isinstance(node.value, bool):
            yield f"{PIXEL_STATISTIC} {node.value}"
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.ExceptHandler):
            yield node.name or ""
        elif isinstance(node, ast.alias):
            yield node.asname or node.name.rsplit(".", 1)[-1]
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.arg | ast.keyword):
            yield node.arg or ""


def test_shared_rooms_have_no_system_specific_terms():
    result = []
    for path in sorted(ROOT.rglob("*.py")):
        file = path.relative_to(ROOT)
        if file.parts[0] not in OWN:
            result += [f"{file}: {text[:60]!r}" for text in list_terms(ast.parse(path.read_text())) if PATTERN.search(text)]
    assert not set(result) - set(ALLOWED), "\n".join(result)


@pytest.mark.parametrize(
    "line",
    [
        'QUESTION = "Please doing Referring Segmentation according to"',
        'MARKERS = ("<region>",)',
        "MEAN = (123.675, 0, 0)",
        "class FineGrainedPerceiver: ...",
        "def next_query(hidden): ...",
        "from somewhere import mask_decoder",
        'NAME = "sem_seg_head.predictor.SEG_proj"',
    ],
)
def test_system_specific_terms_are_detected(line):
    assert any(PATTERN.search(text) for text in list_terms(ast.parse(line)))


def test_all_terms_occur_in_hyperseg():
    """Each term occurs in the system's folder or in that of its family, so the list is up to date."""
    paths = [path for folder in ("hyperseg", "psalm") for path in (ROOT / "systems" / folder).glob("*.py")]
    texts = [text for path in paths for text in list_terms(ast.parse(path.read_text()))]
    assert all(any(re.search(word, text) for text in texts) for word in WORDS)
