"""The fine-grained perceiver and the region sampler against the published system."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from import_weights import abstract_params, channels_last, import_params

from hyperseg_jax.connectors import fine_grained_perceiver
from hyperseg_jax.connectors.region_sampler import RegionSampler, covered_cells
from hyperseg_jax.structs import Pyramid


@pytest.mark.golden("hyperseg", r"fvp(_.*)?")
def test_fine_grained_perceiver(case):
    config = case.config
    model = fine_grained_perceiver.FineGrainedPerceiver(
        config["llm_hidden"],
        config["depth"],
        config["dim"],
        config["num_queries"],
        config["heads"],
        config["dim_head"],
        config["ff_mult"],
    )
    pyramid = Pyramid(tuple(channels_last(case.inputs[f"res{i}"]) for i in (3, 4, 5)), (8, 16, 32))
    params = import_params(case.weights, perceiver=(abstract_params(model, pyramid), fine_grained_perceiver.table(model), ""))

    @jax.jit
    def run(params, pyramid, hidden):
        bound = model.bind({"params": params})
        query = bound.next_query(hidden)
        return {
            "first_frame_tokens": bound(pyramid),
            "next_frame_query": query,
            "next_frame_tokens": bound(pyramid, query),
            "resampler_output_first_frame": bound.resample(pyramid),
        }

    ours = run(params["perceiver"], pyramid, case.inputs["llm_hidden_at_temporal_positions"])
    for name in case.outputs:
        key, _, step = name.partition("_row::")
        case.compare(name, ours[key][:, :: int(step or 1)])
    case.check()


@pytest.mark.golden("hyperseg", r"region_pooling.*")
def test_region_sampler(case):
    sampler, grid = RegionSampler(), case.config["grid"]
    for b, features in enumerate(case.inputs["feature_map"]):
        masks = jnp.asarray(case.inputs[f"region_masks_{b}"] > 0)
        points = jnp.asarray(case.outputs[f"points_yx_{b}"][..., ::-1])
        regions, count, _ = points.shape
        every = jnp.ones((1, regions, count), bool)
        pooled = sampler(features[None], masks[None], every[:, :, 0], points[None])
        case.compare(f"region_features_{b}", pooled[0][:, None])
        repeated = jnp.broadcast_to(masks[None, :, None], (1, regions, count, *masks.shape[1:]))
        each = sampler(features[None], repeated, every, points[None, :, :, None])
        case.compare(f"all_points_features_{b}", each[0])
        for r, covered in enumerate(np.asarray(covered_cells(masks, grid))):
            case.compare(f"unique_cells_yx_{b}_{r}", np.argwhere(covered).astype(np.float32) / np.float32(grid))
    case.check(skipped=[name for name in case.outputs if name.startswith("points_")])
