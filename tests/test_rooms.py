"""The rooms import one way only: a room imports from itself and from rooms above its own line."""

import ast
import pathlib
import re

import hyperseg_jax

ORDER = [
    "errors",
    "untrusted",
    "cache",
    "atomic",
    "workers",
    "config_fields",
    "renamed_fields",
    "config",
    "structs",
    "locks",
    "axes",
    "ops",
    "tables",
    "layers",
    "encoders",
    "connectors",
    "llms",
    "decoders",
    "losses",
    "text",
    "datasets",
    "toy",
    "data",
    "results",
    "systems",
    "metrics",
    "weights",
    "parallel",
    "evaluation",
    "training",
    "predictors",
    "planning",
    "sweeps",
    "commands",
]
ROOT = pathlib.Path(hyperseg_jax.__file__).parent


def imported_rooms(path: pathlib.Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module]
            if node.module == "hyperseg_jax":
                names = [f"hyperseg_jax.{alias.name}" for alias in node.names if alias.name != "__version__"]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import; name the room"
        rooms |= {name.split(".")[1] for name in names if name.startswith("hyperseg_jax.")}
    return rooms


def test_every_arrow_points_up():
    wrong = []
    for path in sorted(ROOT.rglob("*.py")):
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if room in ("__init__", "train", "evaluate", "predict"):  # the front doors
            continue
        assert room in ORDER, f"{path}: room {room!r} is not in docs/architecture.md"
        wrong += [
            f"{path.relative_to(ROOT)} imports {other}"
            for other in imported_rooms(path)
            if other not in ORDER or ORDER.index(other) > ORDER.index(room)
        ]
    assert not wrong, "\n".join(wrong)


def test_only_the_loop_evaluates():
    """Of training/, one file knows how models are evaluated."""
    asking = [path.name for path in sorted((ROOT / "training").rglob("*.py")) if "evaluation" in imported_rooms(path)]
    assert asking == ["loop.py"]


def test_the_document_has_the_same_order():
    page = (ROOT.parent / "docs" / "architecture.md").read_text()
    block = page.split("## Rooms, from the ground up\n```\n")[1].split("```")[0]
    rooms = re.findall(r"^(\w+(?:\.py|/)) +\S", block, re.MULTILINE)
    assert [room.rstrip("/").removesuffix(".py") for room in rooms] == ORDER
    assert [room for room in rooms if not (ROOT / room).exists()] == []


def entries(contents: str) -> set[str]:
    """What a table of contents has lines for: "name, other   what they are"; a folder's name ends with a slash."""
    columns = re.findall(r"^ *(\w[\w./]*(?:, \w[\w./]*)*) {2,}\S", contents, re.MULTILINE)
    return {name.removesuffix(".py") for column in columns for name in column.split(", ")}


def test_every_room_has_a_table_of_contents():
    """Its __init__.py has a line for each file and folder beside it, and for nothing else."""
    wrong = []
    for contents in sorted(ROOT.glob("*/**/__init__.py")):
        named = entries(ast.get_docstring(ast.parse(contents.read_text())) or "")
        there = {path.stem for path in contents.parent.glob("*.py")} - {"__init__"}
        there |= {path.parent.name + "/" for path in contents.parent.glob("*/__init__.py")}
        room = contents.parent.relative_to(ROOT)
        wrong += [f"{room}: no line for {name}" for name in sorted(there - named)]
        wrong += [f"{room}: {name} has a line and is not there" for name in sorted(named - there)]
    assert not wrong, "\n".join(wrong)
