"""A micro HyperSeg with every published name, as parameters and as checkpoint tensors."""

import numpy as np
import pytest

from hyperseg_jax.systems import system as systems
from hyperseg_jax.tables import flatten, unflatten
from hyperseg_jax.text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def full_config(micro):
    """full_config(**fields) -> micro config with the released unused weights and all heads."""

    def make(**fields):
        config = micro().unlock()
        config.model.clip_encoder.update({"num_layers": 2, "feature_layer": -2, "keep_unused": True})
        config.model.mask_decoder.update({"keep_unused": True, "heads": ("box", "box_iou", "reid")})
        config.model.perceiver.gate = "none"
        config.model.llm.num_layers = 2  # more than one layer to stack
        config.model.mask_encoder.depths = (1, 1, 2, 1)  # one stage of scanned pairs
        config.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
        return config.lock()

    return make


def make_random_params(config, dtype=np.float32, seed=0):
    """Returns random nested parameters of a config."""
    system, rng = systems.get(config.system), np.random.default_rng(seed)
    shapes = flatten(system.shapes(config))
    return unflatten({path: rng.standard_normal(leaf.shape).astype(dtype) for path, leaf in shapes.items()})


def published_tensors(config, dtype=np.float32, seed=0):
    """Returns {published name: random tensor} of a checkpoint of this config."""
    return systems.get(config.system).weight_table(config).to_torch(make_random_params(config, dtype, seed))


@pytest.fixture(scope="session")
def random_tensors():
    return published_tensors


@pytest.fixture(scope="session")
def random_params():
    return make_random_params


@pytest.fixture
def checkpoint(tmp_path):
    """checkpoint(tensors, name="published") -> a folder like those of the Hugging Face hub."""
    from safetensors.numpy import save_file

    def make(tensors, name="published"):
        folder = tmp_path / name
        Tokenizer.toy().save(folder)
        save_file({key: np.asarray(value, order="C") for key, value in tensors.items()}, folder / "model.safetensors")
        return folder

    return make
