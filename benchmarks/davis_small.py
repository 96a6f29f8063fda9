"""J and F of a model of configs/davis_small.py on frames that it was not trained on, with text-blind baselines.

Not a benchmark result: the model was trained on the frames in between.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from collections import defaultdict

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from hyperseg_jax.atomic import write_text
from hyperseg_jax.datasets import ReferringFrames
from hyperseg_jax.metrics.jf import boundary_accuracy, region_similarity
from hyperseg_jax.predictors.model import load
from hyperseg_jax.results.drawing import arrange_tiles, draw_comparison, save_image
from hyperseg_jax.structs import Example

Values = dict[str, list[float]]


def mean_masks(frames: ReferringFrames) -> dict[str, np.ndarray]:
    """Returns the pixels that the object of each video covers in most frames, bool [H, W]."""
    sums: dict[str, list[np.ndarray]] = defaultdict(list)
    for example in frames:
        prompt = example.prompts[0]
        assert prompt.masks is not None
        sums[prompt.key].append(prompt.masks[0, 0])
    return {video: np.mean(masks, axis=0) > 0.5 for video, masks in sums.items()}


def text_blind_baselines(example: Example, means: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns predictions that ignore the text, bool [H, W]: all pixels, the mean mask of each visible video, and the union of
    the target masks of all visible objects."""
    targets: dict[str, np.ndarray] = {prompt.key: prompt.masks[0, 0] for prompt in example.prompts if prompt.masks is not None}
    return {
        "all foreground": np.ones(example.frames.shape[1:3], bool),
        "mean mask": np.concatenate([means[video] for video in targets], axis=1),
        "every object": np.any(list(targets.values()), axis=0),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="a workdir of configs/davis_small.py")
    parser.add_argument("--root", required=True, help="the folder of the clips")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="folder for scores.json and clips.png")
    parsed = parser.parse_args()
    model, odd = load(parsed.model), ReferringFrames(parsed.root, "odd")
    means = mean_masks(ReferringFrames(parsed.root, "even", beside=False))

    values: dict[str, Values] = defaultdict(lambda: defaultdict(list))  # video (or "all") -> score -> one value per prompt
    tiles: dict[str, dict[str, np.ndarray]] = {}  # video -> alone and next to another
    for example in track(odd, "frames", console=Console(stderr=True)):
        blind = text_blind_baselines(example, means)
        for prompt in example.prompts:
            assert prompt.masks is not None
            target = prompt.masks[0, 0]
            segments = model.segment(example.frames[0], prompt.text, no_target_threshold=None)
            ours = segments[0].mask if segments else np.zeros_like(target)
            how = prompt.group
            scores = {f"J {how}": region_similarity(ours, target), f"F {how}": boundary_accuracy(ours, target)}
            scores |= {f"J {how}, {name}": region_similarity(answer, target) for name, answer in blind.items()}
            for video in (prompt.key, "all"):
                for name, value in scores.items():
                    values[video][name].append(value)
            if example.name.startswith(f"{prompt.key}/"):
                tiles.setdefault(prompt.key, {}).setdefault(prompt.group, draw_comparison(example.frames[0], prompt, [ours]))

    averages = {
        video: {name: float(np.mean(targets[name])) for name in sorted(targets)} for video, targets in sorted(values.items())
    }
    table = Table("", *averages["all"])
    for video in [*odd.videos, "all"]:
        table.add_row(video, *(f"{averages[video][name]:.3f}" for name in averages["all"]))
    Console(width=200).print(table)
    every = [value for name in ("J alone", "J beside") for value in values["all"][name]]
    parsed.out.mkdir(parents=True, exist_ok=True)
    print(f"mean J of {len(every)} prompts: {np.mean(every):.3f}")
    write_text(parsed.out / "scores.json", json.dumps(averages, indent=2) + "\n")
    rows = [np.concatenate(list(tiles[video].values()), axis=1) for video in odd.videos]
    save_image(parsed.out / "clips.png", arrange_tiles(rows, 2))


if __name__ == "__main__":
    main()
