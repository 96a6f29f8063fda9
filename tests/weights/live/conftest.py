"""Fixtures of the comparisons with PyTorch: random models of both sides, and conversion through files.

Every test runs the original PyTorch classes and ours; nothing is downloaded.
"""

import json
import os

os.environ["HF_HUB_OFFLINE"] = "1"

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from transformers_names import normalize_name, unused_names

from hyperseg_jax import config as configs
from hyperseg_jax.llms import hub
from hyperseg_jax.structs import TokenStream
from hyperseg_jax.systems import system as systems
from hyperseg_jax.systems.hyperseg import SYSTEM
from hyperseg_jax.tables import flatten, unflatten

PARTS = {**SYSTEM.parts, **hub.make_parts(lambda model: model)}  # those of language models take the model as config
TOLERANCE = 1e-5  # in standard deviations of the expected values, float32; measured errors are about 1e-6


@pytest.fixture(scope="session")
def config():
    """config(clip_encoder={...}, head_vocab_size=...): configs/tiny.py with those fields of config.model."""

    def make(**model):
        c = configs.load("tiny").unlock()
        c.model.update(model)
        return c.lock()

    return make


@pytest.fixture(scope="session")
def assert_close():
    def check(ours, theirs):
        """Asserts that ours is within TOLERANCE of theirs (a torch tensor), and that theirs is not constant."""
        ours, theirs = np.asarray(ours), theirs.detach().numpy()
        assert ours.shape == theirs.shape and theirs.std() > 1e-2
        error = np.abs(ours - theirs).max() / theirs.std()
        print(f"error {error:.1e} of the standard deviation")
        assert error < TOLERANCE

    return check


@pytest.fixture(scope="session")
def randomize():
    """randomize(module): draws random values for every parameter, including biases, norms and tables."""
    import torch

    def fill(module, seed=0):
        generator = torch.Generator().manual_seed(seed)
        norms = {id(m.weight) for m in module.modules() if isinstance(m, torch.nn.LayerNorm | torch.nn.GroupNorm)}
        with torch.no_grad():
            for p in module.parameters():
                drawn = torch.randn(p.shape, generator=generator)
                scale = (p.numel() / p.shape[0]) ** -0.5 if p.ndim > 1 else 0.2
                p.copy_(1 + 0.2 * drawn if id(p) in norms else scale * drawn)
        return module.eval()

    return fill


@pytest.fixture(scope="session")
def random_like():
    """random_like(shapes): random nested parameters of the given abstract shapes."""

    def fill(shapes, seed=1):
        rng, result = np.random.default_rng(seed), {}
        for path, leaf in flatten(shapes).items():
            drawn = rng.standard_normal(leaf.shape).astype(np.float32)
            scale = leaf.shape[-2] ** -0.5 if len(leaf.shape) > 1 else 0.2
            result[path] = 1 + np.float32(0.2) * drawn if path.endswith("/scale") else np.float32(scale) * drawn
        return unflatten(result)

    return fill


@pytest.fixture(scope="session")
def phi_shapes():
    """phi_shapes(config): abstract parameters of the language model and its head."""

    def make(config):
        model, row = systems.get(config.system).build(config), jnp.zeros((1, 2), jnp.int32)
        stream = TokenStream(jnp.zeros((1, 2, model.llm.hidden_size)), row, row.astype(bool), row)
        part_shapes = lambda part, x: nn.unbox(jax.eval_shape(part.init, jax.random.key(0), x)["params"])
        return {"llm": part_shapes(model.llm, stream), "language_head": part_shapes(model.language_head, stream.embeddings)}

    return make


@pytest.fixture(scope="session")
def read_part():
    """read_part(name, config, folder, expected): nested parameters of a folder that save_pretrained wrote."""

    def read(name, config, folder, expected=None):
        part = PARTS[name]
        tensors = {normalize_name(name, key): tensor for key, tensor in load_file(folder / "model.safetensors").items()}
        return part.table(config).to_flax(tensors, expected, ignore=unused_names(name, config))

    return read


@pytest.fixture(scope="session")
def write_part():
    """write_part(name, config, params, folder): the folder that from_pretrained opens."""

    def write(name, config, params, folder):
        folder.mkdir()
        tensors = PARTS[name].table(config).to_torch(params)
        tensors = {key: np.ascontiguousarray(tensor) for key, tensor in tensors.items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(PARTS[name].config_json(config)))

    return write


@pytest.fixture(scope="session")
def load_pretrained():
    """load_pretrained(cls, folder): from_pretrained, without missing or unexpected weights."""

    def load(cls, folder, dtype="auto"):
        model, info = cls.from_pretrained(
            folder, local_files_only=True, attn_implementation="eager", dtype=dtype, output_loading_info=True
        )
        assert not any(info.values()), info
        return model.eval()

    return load


@pytest.fixture(params=["float32", "float16", "bfloat16"])
def dtype(request):
    return request.param


@pytest.fixture
def round_trip(tmp_path, dtype, randomize, read_part, write_part, load_pretrained):
    """round_trip(name, config, model): theirs -> file -> ours -> file -> theirs in one type is bit-equal."""
    import torch

    kinds = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}

    def check(name, config, model):
        model = model.to(getattr(torch, dtype))
        model.save_pretrained(tmp_path / "theirs")
        ours = read_part(name, config, tmp_path / "theirs")
        assert {leaf.dtype for leaf in jax.tree.leaves(ours)} == {np.dtype(kinds[dtype])}
        write_part(name, config, ours, tmp_path / "ours")
        restored = load_pretrained(type(model), tmp_path / "ours").state_dict()
        original = model.state_dict()
        assert restored.keys() == original.keys()
        for key, tensor in original.items():
            assert restored[key].dtype == tensor.dtype
            assert torch.equal(restored[key].view(torch.uint8), tensor.view(torch.uint8)), key

    return check
