"""Repository rules: fast imports, valid configs, short files, and no execution of data."""

import ast
import functools
import importlib
import json
import pathlib
import re
import subprocess
import sys
import time

import numpy as np
import pytest

import hyperseg_jax
from hyperseg_jax import config as configs
from hyperseg_jax.errors import UserError
from hyperseg_jax.systems import system as systems
from hyperseg_jax.tables import flatten, unflatten

PACKAGE = pathlib.Path(hyperseg_jax.__file__).parent
CONFIGS = sorted(path.stem for path in configs.shipped_folder().glob("*.py") if not path.stem.startswith("_"))
MANIFEST = pathlib.Path(__file__).parent / "golden" / "hyperseg" / "full_manifest.json"
HEAVY = ("torch", "tensorflow", "transformers", "jax", "flax", "orbax", "grain", "matplotlib")
FORBIDDEN = {"eval", "exec", "pickle.load", "pickle.loads", "torch.load", "yaml.load", "yaml.unsafe_load", "marshal.load"}


def test_the_import_is_fast():
    code = f"import sys, hyperseg_jax; print([name for name in {HEAVY} if name in sys.modules])"
    times = []
    for _ in range(2):  # the better of two, for busy machines
        began = time.perf_counter()
        output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=True)
        times.append(time.perf_counter() - began)
        assert output.stdout.strip() == "[]"
    assert min(times) < 2.0


def test_the_command_line_imports_no_other_framework():
    code = (
        "import sys; from hyperseg_jax.commands import train, evaluate, predict; import hyperseg_jax.training.loop; "
        "print([name for name in ('torch', 'tensorflow', 'transformers') if name in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=True)
    assert output.stdout.strip() == "[]"


@functools.cache
def build_config(name):
    """Returns (weight table, abstract parameters by path) of a config, without computing values."""
    config = configs.load(name)
    system = systems.get(config.system)
    return system.weight_table(config), flatten(system.shapes(config))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_builds_and_its_table_covers_every_parameter(name):
    table, leaves = build_config(name)
    paths = {path for row in table for path in row.paths}
    assert paths == {path for path in leaves if not path.endswith(("/lora_a", "/lora_b"))}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_has_an_optimizer_group(name):
    from hyperseg_jax.training import param_groups

    config = configs.load(name)
    if systems.get(config.system).loss is None:
        assert "optimizer" not in config
        return
    rules = tuple(param_groups.ParamGroup(**dict(rule)) for rule in config.optimizer.param_groups)
    where = param_groups.assign_groups(build_config(name)[1], rules)
    assert any(rules[k].rate for k in where.values())
    if name == "hyperseg_3b":  # trained by the authors: 64 adapters, the decoders and the connectors; the rest is frozen
        trained = {path for path, k in where.items() if rules[k].rate}
        assert sum(np.prod(build_config(name)[1][path].shape) for path in trained if "lora" in path) == 2_621_440
        assert not any(path.startswith(("clip_encoder/", "mask_encoder/", "projector/")) for path in trained)
        assert {path for path in trained if path.startswith("llm/") and "lora" not in path} == {"llm/tokens/embedding"}


def test_the_published_size_has_the_published_names():
    table, leaves = build_config("hyperseg_3b_released")
    # broadcast zeros of the parameters' shapes, without allocation
    params = unflatten({path: np.broadcast_to(np.zeros((), np.int8), leaf.shape) for path, leaf in leaves.items()})
    ours = {name: tensor.shape for name, tensor in table.to_torch(params).items()}
    assert ours == {row["name"]: tuple(row["shape"]) for row in json.loads(MANIFEST.read_text())["keys"]}
    assert len(ours) == 1636


def test_files_have_at_most_500_lines():
    roots = (PACKAGE, configs.shipped_folder(), *(PACKAGE.parent / name for name in ("tests", "launch", "benchmarks")))
    lengths = {path: len(path.read_text().splitlines()) for root in roots for path in root.rglob("*.py")}
    assert {root.name for root in roots} <= {part for path in lengths for part in path.parts}
    assert not {str(path): count for path, count in lengths.items() if count > 500}


def call_name(node):
    """Returns the dotted name of a called function, or what is known of it."""
    if isinstance(node, ast.Attribute):
        return f"{call_name(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def test_no_code_executes_data():
    calls = {
        f"{path.relative_to(PACKAGE)}:{node.lineno}: {call_name(node.func)}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    }
    assert not sorted(call for call in calls if call.split(": ")[1] in FORBIDDEN)


@pytest.mark.parametrize("name", ["hyperseg_3b", "hyperseg_3b_lora", "hyperseg_3b_full", "instructseg_3b"])
def test_slice_recipes_train_on_the_same_number_of_examples(name):
    plain = configs.load(name)
    for slice_name, chips in {"v5e-16": 16, "v5e-64": 64, "v5e-256": 256, "v5p-128": 128}.items():
        sized = configs.load(f"{name}:{slice_name}")
        assert sized.train.batch_size % chips == 0
        assert sized.train.batch_size * sized.train.steps == plain.train.batch_size * plain.train.steps
        assert sized.optimizer.learning_rate == pytest.approx(4e-5 * (sized.train.batch_size / 32) ** 0.5)
    for wrong, messages in ((f"{name}:v9-1", "v5e-16, v5e-64"), ("tiny:v5e-16", "takes no argument")):
        with pytest.raises(UserError, match=messages):
            configs.load(wrong)


def list_imports(source):
    """Returns (module, name) of every import of the package in a source text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "hyperseg_jax":
            yield from ((node.module, alias.name) for alias in node.names)


def test_imports_of_notebooks_benchmarks_and_configs_exist():
    root = PACKAGE.parent
    sources = {
        path: path.read_text() for folder in ("benchmarks", "configs", "launch") for path in (root / folder).glob("*.py")
    }
    for path in (root / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        sources[path] = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    missing = []
    for path, source in sources.items():
        for module, name in list_imports(source):
            if not hasattr(importlib.import_module(module), name):
                try:
                    importlib.import_module(f"{module}.{name}")
                except ModuleNotFoundError:
                    missing.append(f"{path.name}: {module}.{name}")
    assert len(sources) > 10 and not missing


def test_files_named_in_documents_exist():
    """Checks paths in backticks that start with a folder of the repository or of the package."""
    root = PACKAGE.parent
    tops = {path.name for path in root.iterdir() if path.is_dir()} | {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    missing = []
    for page in (root / "README.md", root / "AGENTS.md", *(root / "docs").glob("*.md")):
        for path in re.findall(r"`([\w./]+\.py)`", page.read_text()):
            if "/" in path and path.split("/")[0] in tops and not any((base / path).exists() for base in (root, PACKAGE)):
                missing.append(f"{page.name}: {path}")
    assert not missing


def test_files_linked_in_documents_exist():
    root = PACKAGE.parent
    for page in (root / "README.md", root / "AGENTS.md", root / "CHANGELOG.md", *(root / "docs").glob("*.md")):
        links = re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text())
        missing = [link for link in links if not (page.parent / link).exists()]
        assert not missing, f"{page.name}: {missing}"


def test_names_in_the_architecture_document_exist():
    """Checks `room/file.name`: a function or class of that file."""
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    every = [(file.split("/"), name) for file, name in re.findall(r"`(\w+(?:/\w+)+)\.(\w+)`", page) if name != "py"]
    named = [(file, name) for file, name in every if (PACKAGE / file[0]).is_dir()]
    missing = [
        (file, name) for file, name in named if not hasattr(importlib.import_module(".".join(["hyperseg_jax", *file])), name)
    ]
    assert len(named) > 5 and not missing
