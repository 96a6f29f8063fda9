"""Interactive rounds of SEEM with Focal-T at real size: a round on cached features, against a full pass.

    python benchmarks/rounds.py [--config seem_focalt] [--side 512] [--rounds 5]

Both answer the same click, with the memory of the round before; weights are random. A full pass encodes the image again; a
round runs the decoder alone."""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

from hyperseg_jax import config as configs
from hyperseg_jax.structs import Example, Prompt, Region
from hyperseg_jax.systems import system as systems
from hyperseg_jax.systems.seem.processor import SeemProcessor
from hyperseg_jax.text.tokenizer import Tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="seem_focalt")
    parser.add_argument("--side", type=int, default=512, help="of the image, pixels")
    parser.add_argument("--rounds", type=int, default=5)
    parsed = parser.parse_args()

    overrides = [f"data.image_size={parsed.side}", "model.precision.compute=float32"]  # CPUs have no fast bfloat16
    config, system = configs.load(parsed.config, overrides), systems.get("seem")
    model = system.build(config)
    params = jax.jit(lambda key: system.init_plain(model, config, key))(jax.random.key(0))
    image = np.random.default_rng(0).integers(0, 255, (parsed.side * 3 // 4, parsed.side, 3), np.uint8)
    region = Region.from_point(parsed.side / 2, parsed.side / 3)
    example = Example("it", image[None], (Prompt("region", regions=(region,)),))
    processor = SeemProcessor(Tokenizer.toy(), parsed.side, config.model.text_encoder.context)
    processor = processor.for_bucket(processor.bucket(example))
    batch = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], processor(example, train=False))
    predict, encode = jax.jit(system.predict(model, config)), jax.jit(system.encode(model, config)["image"].function)
    part = processor.parts(batch)["image"]
    features = {"image": encode(params, part, {})}
    _, memory = predict(params, batch, {}, None)

    def run(cached: bool) -> tuple[float, np.ndarray]:
        start = time.perf_counter()
        outputs, _ = predict(params, batch, features if cached else {}, memory)
        masks = np.asarray(outputs["mask_logits"])
        return time.perf_counter() - start, masks

    (_, full), (_, round_alone) = run(False), run(True)  # compiles both
    scale = np.abs(full).max()
    assert np.abs(full - round_alone).max() < 1e-4 * scale, "both must agree"
    pairs = [(run(False)[0], run(True)[0]) for _ in range(parsed.rounds)]
    ratios = sorted(whole / alone for whole, alone in pairs)
    whole, alone = (np.median(times) for times in zip(*pairs, strict=True))
    print(f"{parsed.config}, {parsed.side} px: full pass {whole:.2f} s, a round on cached features {alone:.2f} s")
    print(f"ratio {np.median(ratios):.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f}); mask logits up to {scale:.1f}")


if __name__ == "__main__":
    main()
