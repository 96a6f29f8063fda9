"""Cost of further prompts for one image: features encoded once, against a full pass for each prompt.

    python benchmarks/prompts.py [--prompts 10] [--layers 2] [--rounds 3] [--flops-only]

The first part runs hyperseg_3b_released with its vision parts at real size, random weights, float32 and a language model of
--layers layers, and compares the masks of both. The second part counts the FLOP of the full model, without running it. Both
use an image of 1024 x 1024 px and referring prompts of a few words. The toy tokenizer has shorter tokens than a real one, so
prompts are slightly longer."""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import ml_collections
import numpy as np

from hyperseg_jax import config as configs
from hyperseg_jax.structs import Example, Prompt
from hyperseg_jax.systems import system as systems
from hyperseg_jax.text.tokenizer import Tokenizer
from hyperseg_jax.training.flops import count_flops

SYSTEM = systems.get("hyperseg")
TEXTS = ["ring", "star", "square", "disc", "cross", "arrow", "heart", "moon", "cloud", "tree"]


class Case:
    """A model, and batches of one image and one prompt each, with functions for the full pass and for each encoding."""

    def __init__(self, config: ml_collections.ConfigDict, prompts: int) -> None:
        self.model = SYSTEM.build(config)
        self.shapes = SYSTEM.shapes(config)
        self.predict = SYSTEM.predict(self.model, config)
        self.encode = SYSTEM.encode(self.model, config)
        image = np.random.default_rng(0).integers(0, 255, (1, 1024, 1024, 3), np.uint8)
        self.processor = SYSTEM.processor(config, Tokenizer.toy(), {})
        examples = [Example("it", image, (Prompt("referring", f"the red {text} on the left"),)) for text in TEXTS[:prompts]]
        processor = self.processor.for_bucket(self.processor.bucket(examples[0]))
        self.batches = [jax.tree.map(lambda x: x[None], processor(one, train=False)) for one in examples]
        self.parts = self.processor.parts(self.batches[0])
        full = {"images", "clip_images"}
        self.rest = [{name: value for name, value in batch.items() if name not in full} for batch in self.batches]

    def features(self, encode: dict[str, Any], params: Any) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for name, function in encode.items():
            if name in self.parts:
                needed = {other: result[other] for other in self.encode[name].needs}
                result[name] = function(params, self.parts[name], needed)
        return result


def measure_real_size(layers: int, prompts: int, rounds: int) -> None:
    config = configs.load("hyperseg_3b_released", [f"model.llm.num_layers={layers}"])
    config = config.copy_and_resolve_references().unlock()
    config.model.precision.update({"compute": "float32", "matmul": "default"})
    case = Case(config, prompts)
    params = jax.tree.map(lambda leaf: jax.device_put(random_leaf(leaf)), case.shapes)
    predict = jax.jit(case.predict)
    encode = {name: jax.jit(encoding.function) for name, encoding in case.encode.items()}

    def masks(batch: dict[str, Any], features: dict[str, Any]) -> np.ndarray:
        return np.asarray(predict(params, batch, features, None)[0]["mask_logits"])

    def run_full() -> list[np.ndarray]:
        return [masks(batch, {}) for batch in case.batches]

    def run_with_features() -> list[np.ndarray]:
        features = case.features(encode, params)
        return [masks(rest, features) for rest in case.rest]

    first, second = run_full(), run_with_features()  # compile both
    largest = max(float(np.abs(a).max()) for a in first)
    difference = max(float(np.abs(a - b).max()) for a, b in zip(first, second, strict=True))
    flipped = np.mean([((a > 0) != (b > 0)).mean() for a, b in zip(first, second, strict=True)])
    print(
        f"mask logits up to {largest:.3g}, which differ by at most {difference:.2g}; {100 * flipped:.4f} % of the pixels flip"
    )
    ratios = []
    for _ in range(rounds):
        seconds = []
        for run in (run_full, run_with_features):
            began = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - began)
        ratios.append(seconds[0] / seconds[1])
        print(f"{prompts} full passes {seconds[0]:.2f} s, encoded once {seconds[1]:.2f} s")
    print(f"ratio {np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), language model of {layers} layers")


def random_leaf(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
    """Returns values of the magnitude of trained ones, to avoid overflows."""
    scale = np.float32(0.02 if len(leaf.shape) > 1 else 0.1)
    return (scale * np.random.default_rng(len(leaf.shape)).standard_normal(leaf.shape, np.float32)).astype(leaf.dtype)


def count_model_flops(prompts: int) -> None:
    case = Case(configs.load("hyperseg_3b_released"), prompts)
    full = count_flops(case.predict, case.shapes, case.batches[0], {}, None)
    shaped = {name: lambda *args, f=encoding.function: jax.eval_shape(f, *args) for name, encoding in case.encode.items()}
    features = case.features(shaped, case.shapes)
    print(f"one full pass: {full / 1e12:.2f} TFLOP")
    total = 0.0
    for name in features:
        needed = {other: features[other] for other in case.encode[name].needs}
        total += (flop := count_flops(case.encode[name].function, case.shapes, case.parts[name], needed))
        print(f"  {name:8s} {flop / 1e12:.3f} TFLOP, once")
    each = count_flops(case.predict, case.shapes, case.rest[0], features, None)
    print(f"  {'prompt':8s} {each / 1e12:.3f} TFLOP, each")
    share = (total + prompts * each) / (prompts * full)
    print(f"{prompts} prompts on one image: {100 * share:.1f} % of the FLOP of {prompts} full passes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=10)
    parser.add_argument("--layers", type=int, default=2, help="of the language model, in the timed part")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--flops-only", action="store_true", help="leave out the timed part")
    parsed = parser.parse_args()
    count_model_flops(parsed.prompts)
    if not parsed.flops_only:
        measure_real_size(parsed.layers, parsed.prompts, parsed.rounds)


if __name__ == "__main__":
    main()
