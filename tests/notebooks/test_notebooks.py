"""All notebooks run completely, with shortened training."""

import pathlib

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((pathlib.Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
SHORT = {
    "1_quickstart.ipynb": (
        ("steps = 240", "steps = 2"),
        ("num_images = 40", "num_images = 4"),
        ("train=360", "train=24"),
        ("train(config, workdir, console=Console(quiet=True), stop_at=steps // 2)\n", ""),
        # referring prompts only: one program to compile
        ('f"train.steps={steps}"', 'f"train.steps={steps}", "data.tasks.new_classes.ratio=0"'),
    ),
    "3_your_own_data.ipynb": (("steps = 300", "steps = 2"), ("num_images = 300", "num_images = 24"), ("val=40", "val=8")),
}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.name for path in NOTEBOOKS])
def test_notebook_runs(path):
    notebook = nbformat.read(path, as_version=4)
    for old, new in SHORT.get(path.name, ()):
        holding = [cell for cell in notebook.cells if old in cell.source]
        assert holding, f"{path.name} has no {old!r} to shorten"
        for cell in holding:
            cell.source = cell.source.replace(old, new)
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute(cwd=str(path.parent))
    output = [out for cell in notebook.cells for out in cell.get("outputs", ()) if "image/png" in out.get("data", {})]
    assert len(output) == sum(line.startswith("Image.") for cell in notebook.cells for line in cell.source.splitlines())
