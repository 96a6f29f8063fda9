"""The fine-grained perceiver and the region sampler against the published system."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from import_weights import abstract_params, channels_last, import_params

from hyperseg_jax.connectors import fine_grained_perceiver, object_perceiver, text_fusion
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


@pytest.mark.golden("instructseg", r"(ovp|vmtf)_.*")
def test_instructseg_perceivers(case):
    """All intermediate deltas, the output, and gradients of sum(output * cotangent)."""
    config, kind = case.config, case.meta["case"].split("_")[0]
    options = {name: config[key] for name, key in SIZES.items()}
    shape = lambda name: (config["batch"], config["frames"], config[f"n_{name}"], config["dim"])
    inputs = {name: case.inputs.get(name, case.draw_input_as(name, shape(name))) for name in ("latents", "x")}
    if kind == "ovp":
        model = object_perceiver.ObjectPerceiver(config["dim"], config["n_latents"], **options)
        table = object_perceiver.stack_table(model)
        expected = abstract_params(model, inputs["x"])
        del expected["query"]  # the case gives the latents
    else:
        model = text_fusion.TextFusion(**options)
        table, frame = text_fusion.table(model), {name: value[:, 0] for name, value in inputs.items()}
        expected = abstract_params(model, frame["latents"], frame["x"])
    params = import_params(case.weights, model=(expected, table, f"{kind}."))["model"]
    cotangent = case.inputs.get("cotangent")

    def run(params, latents, x):
        """Returns the sum over the cotangent, and (output, deltas)."""
        if kind == "ovp":
            query = jnp.zeros((config["n_latents"], config["dim"]))
            output, state = model.apply({"params": params | {"query": query}}, x, latents, capture_intermediates=keep_deltas)
            frames = lambda y: y.reshape(*x.shape[:2], *y.shape[1:])
        else:
            output, state = model.apply({"params": params}, latents[:, 0], x[:, 0], capture_intermediates=keep_deltas)
            output, frames = output[:, :1], lambda y: y[:, None]
        deltas = {
            f"layer{i}/{name}": frames(state["intermediates"][f"layers_{i}"][part]["__call__"][0])
            for i in range(config["depth"])
            for name, part in (("attn_delta", "attention"), ("ff_delta", "mlp"))
        }
        return (output * (0 if cotangent is None else cotangent)).sum(), (output, deltas)

    (_, (output, deltas)), gradients = jax.jit(jax.value_and_grad(run, (0, 1, 2), has_aux=True))(params, *inputs.values())
    ours = deltas | {"output": output, "output_every8": output[:, :, ::8] if kind == "ovp" else output}
    ours["output_stats"] = np.array([np.mean(output), np.std(output, ddof=1), np.min(output), np.max(output)])
    norms = {name: np.linalg.norm(x).reshape(1) for name, x in table.with_prefix("", f"{kind}.").to_torch(gradients[0]).items()}
    for name in case.outputs:
        if name.startswith("grad_norm/"):
            case.compare(name, norms[name.removeprefix("grad_norm/")], kind="gradient")
        elif name.startswith("grad/"):
            gradient = gradients[1 + ("latents", "x").index(name.removeprefix("grad/"))]
            case.compare(name, gradient[:, :, : case.outputs[name].shape[2]], kind="gradient")
        else:
            rows = slice(None) if "output" in name else slice(case.outputs[name].shape[2])
            case.compare(name, ours[name] if "output" in name else ours[name][:, :, rows])
    case.check()


SIZES = {"num_layers": "depth", "num_heads": "heads", "head_dim": "dim_head", "mlp_ratio": "ff_mult"}


def keep_deltas(module, method):
    """Selects the outputs of the attention and feed-forward blocks, which are added to the latents."""
    return module.name in ("attention", "mlp")


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
