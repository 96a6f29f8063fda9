"""Hybrid entity recognition and its ablations on the toy world: a table over the trials of a sweep.

    hyperseg sweep --config tiny_entities --grid seed=0,1,2 --grid model.entities.recognition=hybrid,decoding,generation \\
        --metric panoptic/pq --out entities
    python benchmarks/entities.py entities/trials/*/ --figure entities.png

Each model answers the class lists of the validation images. A model that writes names is also asked with the true names given,
an upper bound of what better names could bring. Not a benchmark result, and not a speed: times are those of one image at a
time, in turns, on this machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import statistics
import textwrap
import time
from collections import defaultdict

import matplotlib.pyplot as plt
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from hyperseg_jax import metrics
from hyperseg_jax.data import sources
from hyperseg_jax.predictors.model import Model, load
from hyperseg_jax.results.drawing import draw_masks
from hyperseg_jax.structs import Example, Prediction
from hyperseg_jax.systems import system as systems

SCORES = ("pq", "missed", "duplicated", "class_accuracy", "name_precision", "name_recall", "repeated_names", "seconds")
SHOWN = 6  # answers in the figure


class Answers:
    """The scores of one model, and its first answers."""

    def __init__(self) -> None:
        self.quality, self.entities = metrics.PanopticQuality(), metrics.EntityScores()
        self.seconds: list[float] = []
        self.first: list[tuple[Example, Prediction]] = []

    def add(self, example: Example, predicted: Prediction, seconds: float) -> None:
        """Adds the answer to the class list of an image."""
        prompt = example.prompts[0]
        assert prompt.masks is not None
        masks = predicted.masks, predicted.labels, prompt.masks[:, 0], prompt.labels
        self.quality.update(*masks, prompt.classes, prompt.things)
        written = None if predicted.written is None else [name.label for name in predicted.written]
        self.entities.update(*masks, written=written)
        self.seconds.append(seconds)
        if len(self.first) < SHOWN:
            self.first.append((example, predicted))

    def scores(self) -> dict[str, float]:
        """Returns all scores; the time is the median, without the first image, whose programs are compiled."""
        return {**self.quality.compute(), **self.entities.compute(), "seconds": statistics.median(self.seconds[1:])}


def draw_figure(path: pathlib.Path, answers: list[tuple[Example, Prediction]]) -> None:
    """Draws each image beside its segments with their classes. Above: what the model wrote, "+" for what is in the image."""
    figure, axes = plt.subplots(len(answers) // 2, 4, figsize=(15, 2.2 * len(answers)))
    for (example, predicted), (left, right) in zip(answers, axes.reshape(-1, 2), strict=True):
        present = {example.prompts[0].classes[label] for label in example.prompts[0].labels}
        names = [f"{'+' if each.name in present else '-'} {each.name}".replace(" ", "\xa0") for each in predicted.written or ()]
        left.imshow(example.frames[0])
        left.set_title("\n".join(["wrote:", *textwrap.wrap(",  ".join(names), 60)]), fontsize=9, loc="left")
        found = list(zip(predicted.masks, predicted.labels, predicted.names, strict=True))
        things = [(mask, name) for mask, label, name in found if example.prompts[0].things[label]]
        right.imshow(draw_masks(example.frames[0], [mask for mask, _ in things], scale=4))
        for mask, name in things:
            y, x = np.argwhere(mask).mean(0) * 4
            right.text(
                x, y, name, fontsize=8, ha="center", bbox={"facecolor": "white", "alpha": 0.7, "pad": 1, "edgecolor": "none"}
            )
        stuff = [name for _, label, name in found if not example.prompts[0].things[label]]
        right.set_title(f"segmented; stuff: {', '.join(stuff) or 'none'}", fontsize=9, loc="left")
        for axis in (left, right):
            axis.set(xticks=[], yticks=[])
    figure.tight_layout()
    figure.savefig(path, dpi=60)


def true_names(model: Model, example: Example) -> tuple[str, ...]:
    """Returns the names of what is in an image, in the order of training."""
    from hyperseg_jax.systems.hyperseg.entities import Entities

    return Entities.from_config(model.config).present(example.prompts[0])


def with_stuff_last(example: Example) -> Example:
    """Returns the example of one class list with its stuff classes last, as `Model.segment_classes` takes them."""
    prompt = example.prompts[0]
    order = sorted(range(len(prompt.classes)), key=lambda k: not prompt.things[k])
    prompt = dataclasses.replace(
        prompt,
        classes=tuple(prompt.classes[k] for k in order),
        things=tuple(prompt.things[k] for k in order),
        labels=tuple(order.index(label) for label in prompt.labels),
    )
    return dataclasses.replace(example, prompts=(prompt,))


def ask(model: Model, example: Example, names: tuple[str, ...] | None) -> tuple[Prediction, float]:
    """Returns the answer to the class list of an image, and its time. names: given to the model, if any."""
    prompt, start = example.prompts[0], time.perf_counter()
    things = sum(prompt.things)
    classes, stuff = prompt.classes[:things], prompt.classes[things:]
    predicted = model.segment_classes(example.frames[0], classes, stuff=stuff, entities=names)
    return predicted, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdirs", nargs="+", type=pathlib.Path, help="workdirs of configs/tiny_entities.py")
    parser.add_argument("--examples", type=int, default=200, help="number of validation images")
    parser.add_argument("--figure", type=pathlib.Path, help="a picture of the first answers of the first hybrid model")
    parsed = parser.parse_args()
    rows: dict[str, list[dict[str, float]]] = defaultdict(list)
    for workdir in parsed.workdirs:
        model = load(workdir)
        recognition = model.config.model.entities.recognition
        task = sources.build_tasks(model.config, systems.get("hyperseg"), console=Console(quiet=True))["panoptic"]
        assert task.val is not None
        variants = {recognition: Answers()}
        if recognition != "decoding":
            variants[f"{recognition}, true names"] = Answers()
        for k in track(range(min(parsed.examples, len(task.val))), workdir.name, console=Console(stderr=True)):
            example = with_stuff_last(task.val[k])
            for variant, answers in variants.items():
                answers.add(example, *ask(model, example, true_names(model, example) if "true" in variant else None))
        for variant, answers in variants.items():
            rows[variant].append(answers.scores())
        if parsed.figure and recognition == "hybrid":
            draw_figure(parsed.figure, variants[recognition].first)
            parsed.figure = None
    table = Table("recognition", "runs", *SCORES)
    for variant, runs in sorted(rows.items()):
        cells = []
        for name in SCORES:
            values = [run[name] for run in runs if name in run]
            spread = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.3f}{spread}" if values else "")
        table.add_row(variant, str(len(runs)), *cells)
    Console(width=240).print(table)


if __name__ == "__main__":
    main()
