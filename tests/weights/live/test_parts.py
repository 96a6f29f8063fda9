"""The registry of parts: names, covered parameters, sizes and unknown parts."""

import re

import pytest
from transformers_names import normalize_name, unused_names

from hyperseg_jax import config as configs
from hyperseg_jax.errors import UserError
from hyperseg_jax.systems import system as systems
from hyperseg_jax.systems.hyperseg import SYSTEM


@pytest.mark.parametrize("name", ["tiny", "hyperseg_3b_released"])
def test_a_part_covers_its_prefixes(name):
    config = configs.load(name)
    published = {path for row in systems.get(config.system).weight_table(config) for path in row.paths}
    for part in SYSTEM.parts.values():
        paths = {path for row in part.table(config) for path in row.paths}
        assert paths == {path for path in published if path.startswith(part.prefixes)} and paths


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("phi", 2_779_683_840),  # Phi-2
        ("siglip", 428_225_600),  # SigLIP-SO400M/14 at 384 pixels
        ("swin", 86_880_376 + 2 * 1024),  # Swin-B with four norms, and the norm that is never applied
    ],
)
def test_published_sizes_equal_those_of_transformers(name, parameters):
    """The class built on the meta device from our config.json has our number of parameters and our names."""
    import torch
    import transformers

    config, part = configs.load("hyperseg_3b_released"), SYSTEM.parts[name]
    fields = part.config_json(config)
    cls = getattr(transformers, fields["architectures"][0])
    with torch.device("meta"):
        state_dict = cls(cls.config_class.from_dict(fields)).state_dict()
    assert sum(tensor.numel() for tensor in state_dict.values()) == parameters
    names = {normalize_name(name, key) for key in state_dict}
    ours = {key for row in part.table(config) for key in row.names if row.paths}
    assert {key for key in names if not any(re.fullmatch(pattern, key) for pattern in unused_names(name, config))} == ours
    assert {normalize_name(name, key) for key in ours} == ours


def test_unknown_parts_are_refused():
    system = systems.get("hyperseg")
    assert {name: system.part(name) for name in SYSTEM.parts} == SYSTEM.parts
    with pytest.raises(UserError, match=r"mask2former: the lateral convolutions have biases and a ReLU"):
        system.part("mask2former")
    with pytest.raises(UserError, match=r"llama: no part .* export one of phi, siglip, swin"):
        system.part("llama")
