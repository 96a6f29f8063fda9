"""Where every parameter of the published size lies on each default topology, as text that a change is reviewed by.

Write the files anew: pytest -n 0 tests/parallel/test_snapshots.py --write-snapshots
"""

import collections
import pathlib
import re

import flax.linen as nn
import jax
import pytest

from hyperseg_jax.commands import config as configs
from hyperseg_jax.parallel import placement, presets, report
from hyperseg_jax.systems import system as systems

FOLDER = pathlib.Path(__file__).parent / "snapshots"
# topology -> (what JAX calls its chips, chips)
TOPOLOGIES = {"v4_2x2x4": ("TPU v4", 16), "v5e_4x4": ("TPU v5 lite", 16), "v5e_16x16": ("TPU v5 lite", 256),
              "v5p_4x4x8": ("TPU v5", 128), "v6e_4x4": ("TPU v6 lite", 16)}  # fmt: skip


@pytest.fixture(scope="module")
def boxed():
    config = configs.load("hyperseg_3b")
    system = systems.get(config.system)
    return jax.eval_shape(lambda: system.init(system.build(config), config, jax.random.key(0)))


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_snapshot(boxed, topology, kind, request):
    device_kind, chips = TOPOLOGIES[topology]
    preset, sizes = presets.choose("auto", device_kind, chips, 1, kind == "lora")
    placed = placement.abstract(preset, sizes, chips)
    where = placement.abstract_arrays(nn.unbox(boxed), placement.shardings(boxed, placed))
    rows = report.rows(where, placed)
    assert not [row.path for row in rows if row.flagged]
    # equal blocks as one line with their number
    together = collections.Counter(re.sub(r"_\d+/", "_*/", line) for line in report.lines(rows))
    text = f"preset {preset} {dict(placed.mesh.shape)}, float32, {sum(row.megabytes for row in rows):.0f} MB a chip\n"
    text += "".join(f"{count:3} x {line}\n" for line, count in together.items())
    file = FOLDER / f"{topology}_{kind}.txt"
    if request.config.getoption("--write-snapshots"):
        FOLDER.mkdir(exist_ok=True)
        file.write_text(text)
    assert file.read_text() == text
