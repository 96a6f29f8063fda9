"""hyperseg quickstart: segments with the shipped model, fine-tunes it on new concepts, and writes an HTML report."""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from hyperseg_jax import config as configs
from hyperseg_jax.datasets.visual_prompts import draw_region
from hyperseg_jax.errors import UserError
from hyperseg_jax.results.drawing import add_caption, arrange_tiles, draw_masks, draw_segments
from hyperseg_jax.results.page import Page
from hyperseg_jax.untrusted import paths, printing
from hyperseg_jax.untrusted.bad_file import naming_path

FEWEST = 4
"""Minimum of --images, so that there is an example of every kind of prompt."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("quickstart"), help="folder for the report and the run"
    )
    parser.add_argument("--steps", type=int, default=0, help="fine-tuning steps; 0: as in configs/tiny_lora.py")
    parser.add_argument("--images", type=int, default=40, help="held-out images per evaluation")


def run(parsed: argparse.Namespace) -> None:
    if parsed.images < FEWEST:
        raise UserError(f"--images {parsed.images}: give at least {FEWEST}")
    began, console = time.monotonic(), printing.make_console(stderr=True)
    log = lambda text: printing.log(console, f"[{_elapsed_time(began)}] {text}")
    page = Page("hyperseg_jax: a first look")
    page.text(
        "A small but complete model, trained on drawings of shapes, segments held-out images by text, and is then "
        "fine-tuned on a colour and a shape that were excluded from its training data. All results were computed on this "
        "machine just now."
    )
    data, tuned = _check_folder(parsed.out)
    root = draw_worlds(data, parsed.images, log)
    config = configs.load("tiny_lora", [f"data.root={root}", *([f"train.steps={parsed.steps}"] if parsed.steps else [])])
    tasks = open_tasks(config, console)

    from hyperseg_jax.predictors.model import Model  # late: it imports JAX

    log("opening the shipped model `tiny`")
    tiny = Model.load("tiny")
    known, new = (EvaluationSet(name, tasks[name], parsed.images) for name in ("known", "new"))
    show_held_out(page, tiny, known, log)
    show_prompts(page, tiny, root / "known")
    show_clip(page, tiny, root / "known", log)
    fine_tuned = fine_tune(page, config, tiny, known, new, tuned, console, log)
    page.heading("What to do next")
    page.code(
        f'hyperseg predict --model {fine_tuned} image.jpg "the pink heart"\n'
        "hyperseg train --config configs/tiny.py --workdir my_run\nhyperseg train --help"
    )
    page.text(f"The whole quickstart took {_elapsed_time(began)} (minutes:seconds).")
    page.save(parsed.out / "index.html")
    log(f"done; open {parsed.out / 'index.html'}")


def _check_folder(out: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Returns the folders of the data and of the fine-tuning run. Raises UserError if one is a link out of --out, or if the
    report cannot be written."""
    if os.path.lexists(out) and not out.is_dir():
        raise UserError(f"--out {out}: not a folder; give the path of a folder")
    if (page := out / "index.html").is_dir():
        raise UserError(f"{page}: a folder, and the report is written under this name; remove it, or give another --out")
    with naming_path(out):
        data, tuned, *_ = (paths.join_inside(out, name) for name in ("data", "fine_tuned", "data/known", "data/new"))
    return data, tuned


def draw_worlds(folder: pathlib.Path, images: int, log: Callable[[str], None]) -> pathlib.Path:
    """Generates two toy datasets in `folder`, with a seed that no training used: "known" with the colours and shapes of the
    training data of the shipped model, "new" with those that were excluded from it. images: size of each validation split.
    Returns `folder`."""
    from hyperseg_jax import toy

    log("generating images that the model has never seen")
    for name, kinds, clips in (("known", "known", 5), ("new", "held_back", 0)):
        toy.write_world(
            folder / name,
            seed=7,
            train=360,
            val=images,
            compositional=0,
            clips=clips,
            kinds=kinds,
            workers=min(2, os.cpu_count() or 1),
            log=lambda _: None,
        )
    return folder


def open_tasks(config: Any, console: Console) -> dict[str, Any]:
    """Opens the tasks of the fine-tuning config, by name. Their validation splits are the evaluation sets."""
    from hyperseg_jax.data import sources
    from hyperseg_jax.systems import system as systems

    return sources.build_tasks(config, systems.get(config.system), console=console)


@dataclasses.dataclass(frozen=True)
class EvaluationSet:
    """The first `images` validation examples of a task."""

    name: str
    task: Any
    images: int

    def evaluate_with_controls(self, model: Any, log: Callable[[str], None]) -> Any:
        """Evaluates a model on the examples. Returns its scores, and those of controls that show whether it uses the text:
        shuffled expressions, and predictions that ignore the text."""
        from hyperseg_jax.evaluation.text_controls import referring_with_controls

        return referring_with_controls(model.engine, self.task, limit=self.images, log=log)


def show_held_out(page: Page, model: Any, known: EvaluationSet, log: Callable[[str], None]) -> None:
    """Adds to the report: scores and predictions of the shipped model for text prompts on held-out images."""
    log("segmenting held-out images by text (the first call compiles, which takes a while)")
    controls = known.evaluate_with_controls(model, log)
    log(
        f"referring cIoU: {controls.ciou:.2f}   (shuffled expressions: {controls.shuffled_ciou:.2f}, "
        f"best baseline that ignores the text: {controls.blind_ciou:.2f})"
    )
    page.heading("1. Held-out images, segmented by text")
    page.headline_number(f"referring cIoU: {controls.ciou:.2f}")
    page.text(
        "cIoU is the total intersection of predictions and targets divided by their total union, over all expressions. The "
        "last line is the best of several baselines that ignore the text. With expressions shuffled between images, a model "
        "that uses the text must score low."
    )
    page.table(("prediction", "cIoU", "gIoU"), [(what, f"{c:.2f}", f"{g:.2f}") for what, c, g in controls.lines()])
    page.image(arrange_tiles(controls.evaluation.tiles, 3), "Left: target. Right: prediction.")


def show_prompts(page: Page, model: Any, world: pathlib.Path) -> None:
    """Adds to the report: predictions for a class list on one image, and for a visual prompt on each of three images."""
    from hyperseg_jax import toy

    example = toy.open_reader(world, "panoptic", "val", max_classes=8)[0]
    frame, prompt = example.frames[0], example.prompts[0]
    names = [name for name, thing in zip(prompt.classes, prompt.things, strict=True) if thing]
    stuff = [name for name, thing in zip(prompt.classes, prompt.things, strict=True) if not thing]
    prediction = model.segment_classes(frame, names, stuff=stuff)
    tiles = [
        add_caption(
            draw_masks(frame, list(prediction.masks), tints=range(len(prediction))),
            "classes: " + ", ".join(prediction.names),
            height=44,
        )
    ]
    region = toy.open_reader(world, "region", "val", max_regions=1)
    for index in range(3):
        example = region[index]
        prompt = example.prompts[0]
        mark = example.frames[0].copy()
        mark[draw_region(prompt.regions[0], mark.shape[:2])] = (255, 0, 255)
        (segment,) = model.segment_regions(example.frames[0], prompt.regions)
        tiles.append(
            add_caption(
                np.concatenate([mark, draw_segments(example.frames[0], [segment])], 1)[:, :384],
                f"{prompt.regions[0].kind}, and the prediction",
                height=44,
            )
        )
    page.heading("2. The same model with other kinds of prompts")
    page.text("A list of classes (panoptic segmentation), and visual prompts drawn on an object.")
    page.image(arrange_tiles(tiles, 2), "A class list, then visual prompts (magenta) and the predicted object of each.")


def show_clip(page: Page, model: Any, world: pathlib.Path, log: Callable[[str], None]) -> None:
    """Adds to the report: predictions for a text prompt on each frame of a video."""
    from hyperseg_jax import toy

    log("segmenting a video, frame by frame")
    example = toy.open_reader(world, "video", "val")[0]
    text = example.prompts[0].text
    tiles = [
        add_caption(draw_segments(frame, segments), f"frame {t + 1}")
        for t, (frame, segments) in enumerate(model.segment_video(example.frames, text))
    ]
    page.heading("3. A video")
    page.text(f"“{text}”: features of each frame are passed on to the next.")
    page.image(arrange_tiles(tiles, 4), text)


def fine_tune(
    page: Page,
    config: Any,
    tiny: Any,
    known: EvaluationSet,
    new: EvaluationSet,
    workdir: pathlib.Path,
    console: Console,
    log: Callable[[str], None],
) -> pathlib.Path:
    """Fine-tunes the shipped model, stopping and resuming halfway, and adds the scores before and after to the report. Returns
    the workdir."""
    from hyperseg_jax.predictors.model import Model
    from hyperseg_jax.training.loop import train

    log("evaluating on the held-out concepts: the colour pink and the shape heart")
    old_before, new_before = known.evaluate_with_controls(tiny, log), new.evaluate_with_controls(tiny, log)
    steps = config.train.steps
    log(f"fine-tuning for {steps} steps with LoRA; stops once halfway to demonstrate resuming")
    began = time.monotonic()
    train(config, workdir, console=console, stop_at=steps // 2)
    log("stopped; resuming the run")
    train(config, workdir, console=console)
    minutes = (time.monotonic() - began) / 60
    tuned = Model.load(workdir)
    old_after, new_after = known.evaluate_with_controls(tuned, log), new.evaluate_with_controls(tuned, log)
    rows = [
        ("held-out colour and shape", new_before.ciou, new_after.ciou),
        ("known colours and shapes", old_before.ciou, old_after.ciou),
    ]
    table = Table("referring cIoU", "before", "after", "change")
    for what, before, after in rows:
        table.add_row(what, f"{before:.2f}", f"{after:.2f}", f"{after - before:+.2f}")
    console.print(table)
    page.heading("4. Fine-tuning on new concepts")
    page.text(
        f"The training images contained no pink objects and no hearts. The model was fine-tuned for {steps} steps on "
        f"{len(new.task.train)} images ({minutes:.1f} minutes): LoRA adapters in the language model, full training of the "
        "decoders, and both encoders frozen. The run was stopped halfway and resumed from its checkpoint."
    )
    page.table(
        ("referring cIoU", "before", "after", "change"),
        [(what, f"{b:.2f}", f"{a:.2f}", f"{a - b:+.2f}") for what, b, a in rows],
    )
    page.image(draw_comparison(tiny, tuned, new), "Target, prediction before, prediction after fine-tuning.")
    page.image(workdir / "loss.png", "Training loss of the fine-tuning.")
    return workdir


def draw_comparison(base_model: Any, tuned_model: Any, dataset: EvaluationSet, count: int = 8) -> np.ndarray:
    """Draws (target, prediction of base_model, prediction of tuned_model) for `count` images that have an expression with a
    held-out colour or shape and a target for it."""
    tiles: list[np.ndarray] = []
    for index in range(len(dataset.task.val)):
        example = dataset.task.val[index]
        prompt = next((p for p in example.prompts if len(p.masks) and any(w in p.text for w in ("pink", "heart"))), None)
        if prompt is None:
            continue
        frame = example.frames[0]
        panels = [draw_masks(frame, [mask[0] for mask in prompt.masks])]
        panels += [draw_segments(frame, model.segment(frame, prompt.text)) for model in (base_model, tuned_model)]
        tiles.append(add_caption(_side_by_side(panels), prompt.text))
        if len(tiles) == count:
            break
    return arrange_tiles(tiles, 2)


def _side_by_side(panels: Sequence[np.ndarray], gap: int = 4) -> np.ndarray:
    """Joins images of equal height in a row, with white gaps between them."""
    white = np.full((panels[0].shape[0], gap, 3), 255, np.uint8)
    parts = [part for panel in panels for part in (white, panel)][1:]
    return np.concatenate(parts, axis=1)


def _elapsed_time(began: float) -> str:
    """Returns the time since `began` (time.monotonic) as minutes:seconds."""
    minutes, seconds = divmod(int(time.monotonic() - began), 60)
    return f"{minutes}:{seconds:02d}"
