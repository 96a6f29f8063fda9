"""Swin and SigLIP against the published system."""

import jax
import numpy as np
import pytest
from import_weights import abstract_params, channels_last, import_params

from hyperseg_jax.connectors import projector
from hyperseg_jax.encoders import siglip, swin


@pytest.mark.golden("hyperseg", r"swin_.*")
def test_swin(case):
    config = case.config
    model = swin.Swin(config["embed_dim"], tuple(config["depths"]), tuple(config["num_heads"]), config["window_size"])
    image = channels_last(case.inputs["image"])
    params = import_params(case.weights, swin=(abstract_params(model, image), swin.table(model), "model.vision_tower_mask."))
    levels = jax.jit(lambda p, x: model.apply({"params": p}, x).levels)(params["swin"], image)
    ours = {f"res{i + 2}": np.moveaxis(np.asarray(level), -1, 1) for i, level in enumerate(levels)}
    for name in case.outputs:
        key, _, what = name.partition("_")
        level = ours[key]
        if what == "shape":
            case.compare(name, np.array(level.shape, np.int32))
        elif what == "stats":
            case.compare(name, np.array([level.mean(), level.std(), level.min(), level.max()]))
        else:
            case.compare(name, level[:, :: int(what.removeprefix("ch::") or 1)])
    case.check()


@pytest.mark.golden("instructseg", r"swin_.*")
def test_swin_at_odd_sizes(case):
    model, images = swin.Swin(), channels_last(case.inputs["images"])
    params = import_params(case.weights, swin=(abstract_params(model, images), swin.table(model), "model.vision_tower_mask."))
    levels = jax.jit(lambda p, x: model.apply({"params": p}, x).levels)(params["swin"], images)
    for i, level in enumerate(levels):
        stage = np.moveaxis(np.asarray(level), -1, 1)
        case.compare(f"res{i + 2}", stage[:, ::8])
    case.check(skipped=[name for name in case.outputs if name.startswith("stats/")])


@pytest.mark.golden("hyperseg", r"siglip_.*")
def test_siglip(case):
    config = case.config
    tower = siglip.Siglip(
        config["image_size"],
        config["patch_size"],
        config["hidden_size"],
        config["intermediate_size"],
        config["num_hidden_layers"],
        config["num_attention_heads"],
        feature_layer=config["mm_vision_select_layer"],
        keep_unused=True,
    )
    connector = projector.Projector(config["llm_hidden"])
    image = channels_last(case.inputs["image"])
    feature = np.zeros((1, tower.num_tokens, tower.hidden_size), np.float32)
    params = import_params(
        case.weights,
        tower=(abstract_params(tower, image), siglip.table(tower), "model.vision_tower."),
        connector=(abstract_params(connector, feature), projector.table(connector), "model.mm_projector."),
    )

    @jax.jit
    def run(params, image):
        selected, hidden = tower.apply({"params": params["tower"]}, image, all_hidden=True)
        return selected, connector.apply({"params": params["connector"]}, selected), hidden

    selected, projected, hidden = run(params, image)
    for i, state in enumerate(hidden):
        case.compare(f"hidden_states_{i}", state)
    case.compare("selected", selected)
    case.compare("projected", projected)
    case.check()
