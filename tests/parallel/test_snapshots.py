"""Where every parameter of the published size lies on each default topology, as text that a change is reviewed by.

Write the files anew: pytest -n 0 tests/parallel/test_snapshots.py --write-snapshots
"""

import collections
import pathlib
import re

import jax
import pytest

from hyperseg_jax.commands import config as configs
from hyperseg_jax.parallel import placement, presets, report
from hyperseg_jax.systems import system as systems
from hyperseg_jax.training import groups, loop

FOLDER = pathlib.Path(__file__).parent / "snapshots"
# topology -> (what JAX calls its chips, chips)
TOPOLOGIES = {"v4_2x2x4": ("TPU v4", 16), "v5e_4x4": ("TPU v5 lite", 16), "v5e_16x16": ("TPU v5 lite", 256),
              "v5p_4x4x8": ("TPU v5", 128), "v6e_4x4": ("TPU v6 lite", 16)}  # fmt: skip


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_snapshot(topology, kind, request):
    config, (device_kind, chips) = configs.load(f"hyperseg_3b_{kind}"), TOPOLOGIES[topology]
    system = systems.get(config.system)
    groups_of = tuple(groups.Group(**dict(rule)) for rule in config.optimizer.groups)
    preset, sizes = presets.choose("auto", device_kind, chips, 1, config.model.lora.rank > 0)
    placed = placement.abstract(preset, sizes, chips)
    state, _ = loop.start(config, system, system.build(config), groups_of, lambda step: 1.0, placed, resumes=True)
    rows = report.rows(state.params, placed)
    assert not [row.path for row in rows if row.flagged]
    # equal blocks as one line with their number
    together = collections.Counter(re.sub(r"_\d+/", "_*/", line) for line in report.lines(rows))
    held, moments = (sum(row.megabytes for row in report.rows({"": part}, placed)) for part in (state.params, arrays(state)))
    text = f"preset {preset} {dict(placed.mesh.shape)}: parameters {held:.0f} MB a chip, optimizer {moments:.0f} MB\n"
    text += "".join(f"{count:3} x {line}\n" for line, count in together.items())
    file = FOLDER / f"{topology}_{kind}.txt"
    if request.config.getoption("--write-snapshots"):
        FOLDER.mkdir(exist_ok=True)
        file.write_text(text)
    assert file.read_text() == text


def arrays(state):
    return {str(k): leaf for k, leaf in enumerate(jax.tree.leaves(state.optimizer))}
