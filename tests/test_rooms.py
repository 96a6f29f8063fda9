"""Rooms import in one direction: a room imports from itself and from rooms on earlier lines of ORDER."""

import ast
import pathlib
import re

import hyperseg_jax
from hyperseg_jax.systems.system import _registered

ORDER = [
    "errors",
    "untrusted",
    "failures",
    "cache",
    "atomic",
    "workers",
    "config_fields",
    "renamed_fields",
    "config",
    "structs",
    "locks",
    "axes",
    "jaxprs",
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


def test_imports_follow_the_order():
    wrong = []
    for path in sorted(ROOT.rglob("*.py")):
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if room in ("__init__", "train", "evaluate", "predict"):  # entry points
            continue
        assert room in ORDER, f"{path}: room {room!r} is not in docs/architecture.md"
        wrong += [
            f"{path.relative_to(ROOT)} imports {other}"
            for other in imported_rooms(path)
            if other not in ORDER or ORDER.index(other) > ORDER.index(room)
        ]
    assert not wrong, "\n".join(wrong)


def test_only_the_loop_imports_evaluation():
    """Within training/, only loop.py imports evaluation."""
    asking = [path.name for path in sorted((ROOT / "training").rglob("*.py")) if "evaluation" in imported_rooms(path)]
    assert asking == ["loop.py"]


def test_the_document_has_the_same_order():
    page = (ROOT.parent / "docs" / "architecture.md").read_text()
    block = page.split("## Rooms, from the ground up\n```\n")[1].split("```")[0]
    rooms = re.findall(r"^(\w+(?:\.py|/)) +\S", block, re.MULTILINE)
    assert [room.rstrip("/").removesuffix(".py") for room in rooms] == ORDER
    assert [room for room in rooms if not (ROOT / room).exists()] == []


def entries(contents: str) -> set[str]:
    """Returns the entries of a table of contents with lines "name, other   description"; folder names end with a slash."""
    columns = re.findall(r"^ *(\w[\w./]*(?:, \w[\w./]*)*) {2,}\S", contents, re.MULTILINE)
    return {name.removesuffix(".py") for column in columns for name in column.split(", ")}


def test_every_room_has_a_table_of_contents():
    """Its __init__.py has a line for each file and subfolder, and no others."""
    wrong = []
    for contents in sorted(ROOT.glob("*/**/__init__.py")):
        listed = entries(ast.get_docstring(ast.parse(contents.read_text())) or "")
        existing = {path.stem for path in contents.parent.glob("*.py")} - {"__init__"}
        existing |= {path.parent.name + "/" for path in contents.parent.glob("*/__init__.py")}
        room = contents.parent.relative_to(ROOT)
        wrong += [f"{room}: no line for {name}" for name in sorted(existing - listed)]
        wrong += [f"{room}: {name} has a line and is not there" for name in sorted(listed - existing)]
    assert not wrong, "\n".join(wrong)


BASES = {"sca": {"sam"}}
"""Systems that are built on another: SCA on SAM."""


def test_no_system_imports_another():
    """The systems are those of the registry; other folders of systems/ are shared by several."""
    systems = {name for name in _registered if (ROOT / "systems" / name).is_dir()}
    assert systems >= {"hyperseg", "instructseg"}
    for path in sorted((ROOT / "systems").rglob("*.py")):
        own = path.relative_to(ROOT / "systems").parts[0]
        text = path.read_text()
        imported = {name for name in systems if re.search(rf"hyperseg_jax\.systems(\.{name}\b| import .*\b{name}\b)", text)}
        assert imported <= {own, *BASES.get(own, ())} or path.name == "system.py", (
            f"{path.relative_to(ROOT)} imports {imported - {own}}"
        )
