"""A micro HyperSeg with every published name, as parameters of ours and as the tensors of a checkpoint."""

import numpy as np
import pytest

from hyperseg_jax.systems import system as systems
from hyperseg_jax.tables import flatten, unflatten
from hyperseg_jax.text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def whole(micro):
    """whole(**fields) -> micro config with the tables that the release keeps unused, and all heads."""

    def make(**fields):
        config = micro().unlock()
        config.model.clip_encoder.update({"num_layers": 2, "feature_layer": -2, "keep_unused": True})
        config.model.mask_decoder.update({"keep_unused": True, "heads": ("box", "box_iou", "reid")})
        config.model.perceiver.gate = "none"
        config.model.llm.num_layers = 2  # a stack of more than one
        config.model.mask_encoder.depths = (1, 1, 2, 1)  # one stage of scanned pairs
        config.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
        return config.lock()

    return make


def random_params(config, dtype=np.float32, seed=0):
    """Parameters of a config, drawn; nested."""
    system, rng = systems.get(config.system), np.random.default_rng(seed)
    shapes = flatten(system.shapes(config))
    return unflatten({path: rng.standard_normal(leaf.shape).astype(dtype) for path, leaf in shapes.items()})


def published_tensors(config, dtype=np.float32, seed=0):
    """{published name: tensor} of a checkpoint of this config, drawn."""
    return systems.get(config.system).weight_table(config).to_torch(random_params(config, dtype, seed))


@pytest.fixture(scope="session")
def draw():
    return published_tensors


@pytest.fixture(scope="session")
def params_of():
    return random_params


@pytest.fixture
def checkpoint(tmp_path):
    """checkpoint(tensors, name="published") -> a folder as the Hugging Face hub has it."""
    from safetensors.numpy import save_file

    def make(tensors, name="published"):
        folder = tmp_path / name
        Tokenizer.toy().save(folder)
        save_file({key: np.asarray(value, order="C") for key, value in tensors.items()}, folder / "model.safetensors")
        return folder

    return make
