"""Estimates of the TPU compiler for the parts of a HyperSeg-3B step, for one chip and one image of 1024 px. No TPU is needed.

Prints for each part: time of all estimated cycles, of these time of the matrix products, time of gathered and scattered rows,
the sum of cycles and rows, GB read and written in HBM, GB of temporary arrays, and the number of sorts and kernels, which have
no estimate; for the kernels of attention, the time of their FLOPs at the peak of the chip. Times are estimates, not
measurements (planning/cost.py). Parts that are trained include their backward pass. The token tables are sharded over all chips
of the slice; the figures are those of one chip, without the time of communication.

    pip install -e '.[tpu]'
    python benchmarks/step_cost.py --part phi_layer --part criterion
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # keeps JAX from looking for a TPU

import flax.linen as nn
import jax
import jax.numpy as jnp

from hyperseg_jax import axes
from hyperseg_jax import config as configs
from hyperseg_jax.errors import UserError
from hyperseg_jax.layers.remat import apply_remat
from hyperseg_jax.layers.rotary import rotary_angles
from hyperseg_jax.layers.token_tables import Embedding, gather_table
from hyperseg_jax.llms.head import head_logits
from hyperseg_jax.llms.phi import PhiLayer
from hyperseg_jax.losses.targets import MaskTargets
from hyperseg_jax.losses.text import text_cross_entropy_in_chunks
from hyperseg_jax.ops import fused_attention
from hyperseg_jax.parallel import placement
from hyperseg_jax.planning import cost, program, topologies
from hyperseg_jax.structs import MaskPrediction, Pyramid
from hyperseg_jax.systems.hyperseg.model import build_model
from hyperseg_jax.systems.hyperseg.objective import build_criterion
from hyperseg_jax.training.flops import PEAKS

SEQUENCES, LENGTH = 2, 2048  # of the language model
TARGETS, CLASSES, STAGES = 100, 134, 10
FROZEN = jnp.bfloat16


def shape(*sizes: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(sizes, dtype)


def trained(module: nn.Module, *inputs: Any, differentiate: int = 1) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Returns a function that computes the gradient of a module with respect to its parameters and its first inputs, and its
    arguments."""

    def gradient(params: Any, *inputs: Any) -> Any:
        def total(params: Any, first: Any) -> jax.Array:
            outputs = module.apply({"params": params}, *first, *inputs[differentiate:])
            return sum(leaf.astype(jnp.float32).sum() for leaf in jax.tree.leaves(outputs) if leaf.dtype != bool)

        return jax.grad(total, argnums=(0, 1))(params, inputs[:differentiate])

    return gradient, (module_params(module, *inputs), *inputs)


def frozen(module: nn.Module, *inputs: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Returns the forward pass of a module, and its arguments."""
    params = jax.tree.map(lambda leaf: shape(*leaf.shape, dtype=FROZEN), module_params(module, *inputs))
    return (lambda params, *inputs: module.apply({"params": params}, *inputs)), (params, *inputs)


def module_params(module: nn.Module, *inputs: Any) -> Any:
    return nn.unbox(jax.eval_shape(module.init, jax.random.key(0), *inputs))["params"]


def phi_layer(config: Any, model: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """One layer with trained adapters and its remat policy."""
    llm = model.llm
    layer = apply_remat(PhiLayer, llm.remat)(
        llm.num_heads, llm.mlp_size, llm.epsilon, llm.lora, llm.lora_targets, llm.precision, True, "nothing"
    )
    x = shape(SEQUENCES, LENGTH, llm.hidden_size, dtype=jnp.bfloat16)
    positions = shape(SEQUENCES, LENGTH, dtype=jnp.int32)
    mask = shape(SEQUENCES, 1, LENGTH, LENGTH, dtype=jnp.bool_)
    angles = lambda positions: rotary_angles(
        positions, int(llm.rotary_fraction * llm.hidden_size / llm.num_heads), llm.rotary_theta
    )
    params = module_params(layer, x, jax.eval_shape(angles, positions), mask)
    is_adapter = lambda path: "lora" in jax.tree_util.keystr(path)
    adapters = jax.tree_util.tree_map_with_path(lambda path, leaf: leaf if is_adapter(path) else None, params)
    base = jax.tree_util.tree_map_with_path(
        lambda path, leaf: None if is_adapter(path) else shape(*leaf.shape, dtype=FROZEN), params
    )

    def gradient(adapters: Any, base: Any, x: Any, positions: Any, mask: Any) -> Any:
        def total(adapters: Any, x: Any) -> jax.Array:
            params = jax.tree.map(lambda a, b: b if a is None else a, adapters, base, is_leaf=lambda leaf: leaf is None)
            hidden: Any = layer.apply({"params": params}, x, angles(positions), mask)
            return hidden[0].astype(jnp.float32).sum()

        return jax.grad(total, argnums=(0, 1))(adapters, x)

    return gradient, (adapters, base, x, positions, mask)


def criterion(config: Any, model: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The loss of one panoptic image at all stages of the decoder, with its gradient for the outputs of the decoder."""
    loss, side, queries = build_criterion(config), config.data.image_size // 4, model.num_queries
    width, dtype = model.mask_decoder.mask_dim, model.precision.compute
    embeddings = shape(STAGES, 1, queries, width, dtype=dtype)
    features, scores = shape(1, side, side, width, dtype=dtype), shape(STAGES, 1, queries, CLASSES)
    segments = shape(1, 1, 4 * side, 4 * side, dtype=jnp.uint8)
    integers, flags = shape(1, TARGETS, dtype=jnp.int32), shape(1, TARGETS, dtype=jnp.bool_)
    supervised = {kind: shape(1, dtype=jnp.bool_) for kind in loss.scores}
    targets = MaskTargets(segments, integers, flags, integers, supervised, {"class": shape(1, CLASSES, dtype=jnp.bool_)})

    def predict(embeddings: Any, features: Any, scores: Any) -> MaskPrediction:
        multiply = lambda each: jnp.einsum("bqd,bhwd->bqhw", each, features, preferred_element_type=jnp.float32)
        stages = [
            {"mask_logits": multiply(each), "mask_embedding": each, "scores": {"class": score}}
            for each, score in zip(embeddings, scores, strict=True)
        ]
        final = stages.pop()
        return MaskPrediction(
            final["mask_logits"], final["scores"], None, {"mask": final["mask_embedding"]}, tuple(stages), features
        )

    def gradient(inputs: Any, targets: Any, key: jax.Array) -> Any:
        return jax.grad(lambda inputs: loss(predict(*inputs), targets, key=key).total)(inputs)

    return gradient, ((embeddings, features, scores), targets, jax.eval_shape(lambda: jax.random.key(0)))


def token_tables(model: Any, placed: placement.Placement) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Embedded tokens and the text loss of SEQUENCES for each chip, with the gradients of both tables."""
    llm, precision = model.llm, model.precision
    embedding = Embedding(llm.vocab_size, llm.hidden_size, precision)

    def total(table: jax.Array, kernel: jax.Array, hidden: jax.Array, ids: jax.Array) -> jax.Array:
        embedded: Any = embedding.apply({"params": {"embedding": table}}, ids)
        head = lambda kernel, hidden: head_logits(hidden, kernel, precision)
        return text_cross_entropy_in_chunks(head, gather_table(kernel, precision), hidden + embedded, ids)

    names = ("vocab", "embed"), ("embed", "vocab"), ("batch", None, None), ("batch", None)
    ids = shape(SEQUENCES * placed.mesh.size, LENGTH, dtype=jnp.int32)
    hidden = shape(*ids.shape, llm.hidden_size, dtype=jnp.bfloat16)
    inputs = shape(llm.vocab_size, llm.hidden_size), shape(llm.hidden_size, llm.vocab_size), hidden, ids
    shardings = [jax.sharding.NamedSharding(placed.mesh, axes.to_mesh_axes(each, placed.rules)) for each in names]

    def gradient(*inputs: jax.Array) -> Any:
        gradients = jax.grad(total, argnums=(0, 1, 2))(*inputs)
        return tuple(axes.constrain(x, *each) for x, each in zip(gradients, names[:3], strict=True))

    return gradient, tuple(map(placement.add_shardings, inputs, shardings))


def _pyramid(config: Any, model: Any) -> Pyramid:
    width, side = model.mask_encoder.hidden_size, config.data.image_size
    levels = tuple(shape(1, side // s, side // s, width * s // 4, dtype=jnp.bfloat16) for s in (4, 8, 16, 32))
    return Pyramid(levels, (4, 8, 16, 32))


def pixel_decoder(config: Any, model: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    return trained(model.pixel_decoder, _pyramid(config, model))


def mask_decoder(config: Any, model: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The masked-attention decoder with the classes of COCO."""
    features, levels = jax.eval_shape(
        lambda params, pyramid: model.pixel_decoder.apply({"params": params}, pyramid),
        module_params(model.pixel_decoder, _pyramid(config, model)),
        _pyramid(config, model),
    )
    width = model.mask_decoder.hidden_size
    queries = shape(1, 1, model.num_queries, width, dtype=jnp.bfloat16)
    embeddings = {"class": shape(1, 1, CLASSES, width, dtype=jnp.bfloat16)}
    return trained(model.mask_decoder, features, levels, queries, embeddings, differentiate=4)


def swin(config: Any, model: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    return frozen(model.mask_encoder, shape(1, config.data.image_size, config.data.image_size, 3))


def siglip(config: Any, model: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    side = model.clip_encoder.image_size
    return frozen(model.clip_encoder, shape(1, side, side, 3))


PARTS = {
    "phi_layer": phi_layer,
    "criterion": criterion,
    "pixel_decoder": pixel_decoder,
    "mask_decoder": mask_decoder,
    "swin": swin,
    "siglip": siglip,
}
SHARDED_PARTS = {"token_tables": token_tables}


def kernel_flops(model: Any) -> float:
    """Returns the FLOPs of the attention kernels of a layer, in blocks on or below the diagonal: two products in the forward
    pass, three for the gradients of queries, and four for those of keys and values."""
    blocks = LENGTH // fused_attention.BLOCKS[0]
    return (2 + 3 + 4) * 2 * SEQUENCES * model.llm.hidden_size * LENGTH**2 * (blocks + 1) / (2 * blocks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="hyperseg_3b_lora:v5e-16")
    parser.add_argument("--topology", default="v5e:4x4", help="a slice; one chip of it is used, by sharded parts all chips")
    parser.add_argument("--part", action="append", choices=(*PARTS, *SHARDED_PARTS), help="repeatable; default: all")
    parsed, overrides = parser.parse_known_args()
    try:
        print_costs(
            parsed.topology,
            parsed.part or (*PARTS, *SHARDED_PARTS),
            configs.load(parsed.config, [o.removeprefix("--config.") for o in overrides]),
        )
    except UserError as error:
        raise SystemExit(str(error)) from error


def print_costs(topology: str, parts: Iterable[str], config: Any) -> None:
    clock, model, devices = cost.clock(topology.partition(":")[0]), build_model(config), topologies.slice_devices(topology)
    print("part            cycles ms  products ms  rows ms  total ms      GB  temporary GB  sorts  kernels  compile CPU s")
    for name in parts:
        if name in SHARDED_PARTS:
            placed = placement.make("lora", devices=devices)
            function, arguments = SHARDED_PARTS[name](model, placed)
        else:
            placed = placement.make("single", devices=devices[:1])
            function, arguments = PARTS[name](config, model)
            arguments = placement.add_shardings(arguments, placed.replicated)
        with placement.use(placed):
            began = time.process_time()
            compiled = jax.jit(function).lower(*arguments).compile()
        parsed = program.parse_program(compiled.as_text() or "")
        found = cost.sum_costs(parsed)
        stats: Any = compiled.memory_analysis()
        row_cycles = cost.CYCLES_PER_GATHERED_ROW * found.gathered_rows + cost.CYCLES_PER_SCATTERED_ROW * found.scattered_rows
        cycles, products, rows = (1000 * cycles / clock for cycles in (found.cycles, found.matmul_cycles, row_cycles))
        print(
            f"{name:14}{cycles:11.2f}{products:13.2f}{rows:9.2f}{cycles + rows:10.2f}{found.bytes / 1e9:8.2f}"
            f"{stats.temp_size_in_bytes / 1e9:14.2f}{found.sorts:7.0f}{found.kernels:9.0f}{time.process_time() - began:15.0f}",
            flush=True,
        )
        if collectives := parsed.collectives():
            print("  communication:", ", ".join(f"{count} {kind}" for kind, count in collectives.items()))
        if found.kernels:
            flops = kernel_flops(model)
            print(f"  kernels: {flops / 1e9:.0f} GFLOP, {1000 * flops / PEAKS[devices[0].device_kind]:.2f} ms at the peak")


if __name__ == "__main__":
    main()
