"""hyperseg quickstart: see the shipped model segment, teach it something new, read the story on one page."""

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
from hyperseg_jax.results.drawing import caption, draw_segments, overlay, sheet
from hyperseg_jax.results.page import Page
from hyperseg_jax.untrusted import paths, printing
from hyperseg_jax.untrusted.bad_file import naming

FEWEST = 4
"""Images, so that every kind of prompt has something to show."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("quickstart"), help="folder for the page and the run")
    parser.add_argument("--steps", type=int, default=0, help="fine-tuning steps; 0 takes those of configs/tiny_lora.py")
    parser.add_argument("--images", type=int, default=40, help="held-out images in each test")


def run(parsed: argparse.Namespace) -> None:
    if parsed.images < FEWEST or parsed.steps < 0:
        raise UserError(f"--images {parsed.images} --steps {parsed.steps}: give {FEWEST} images or more, and no steps below 0")
    began, console = time.monotonic(), Console(stderr=True)
    say = lambda text: printing.say(console, f"[{_clock(began)}] {text}")
    page = Page("hyperseg_jax: a first look")
    page.text(
        "A small but complete HyperSeg, trained on drawings of shapes, segments images it has never seen by text, and "
        "is then taught a colour and a shape that were held back. Everything here was computed on this machine, just "
        "now."
    )
    with naming(parsed.out):
        data, tuned = (paths.inside(parsed.out, name) for name in ("data", "fine_tuned"))
    root = draw_worlds(data, parsed.images, say)
    config = configs.load("tiny_lora", [f"data.root={root}", *([f"train.steps={parsed.steps}"] if parsed.steps else [])])
    tasks = open_tasks(config, console)

    from hyperseg_jax.predictors.model import Model  # late: it imports JAX

    say("opening the shipped model `tiny`")
    tiny = Model.load("tiny")
    known, new = (Examined(name, tasks[name], parsed.images) for name in ("known", "new"))
    show_held_out(page, tiny, known, say)
    show_prompts(page, tiny, root / "known")
    show_clip(page, tiny, root / "known", say)
    fine_tuned = fine_tune(page, config, tiny, known, new, tuned, console, say)
    page.heading("What to do next")
    page.code(
        f'hyperseg predict --model {fine_tuned} image.jpg "the pink heart"\n'
        "hyperseg train --config configs/tiny.py --workdir my_run\nhyperseg train --help"
    )
    page.text(f"The whole quickstart took {_clock(began)} (minutes:seconds).")
    page.save(parsed.out / "index.html")
    say(f"done; open {parsed.out / 'index.html'}")


def draw_worlds(folder: pathlib.Path, images: int, say: Callable[[str], None]) -> pathlib.Path:
    """Two toy worlds of seeds that no training used: the known kinds, and those that were held back."""
    from hyperseg_jax import toy

    say("drawing images that the model has never seen")
    for name, kinds, clips in (("known", "known", 5), ("new", "held_back", 0)):
        toy.write(
            folder / name,
            seed=7,
            train=360,
            val=images,
            compositional=0,
            clips=clips,
            kinds=kinds,
            workers=min(2, os.cpu_count() or 1),
            say=lambda _: None,
        )
    return folder


def open_tasks(config: Any, console: Console) -> dict[str, Any]:
    """The fine-tuning tasks, whose validation halves are the exams."""
    from hyperseg_jax.data import sources
    from hyperseg_jax.systems import system as systems

    return sources.build(config, systems.get(config.system), console=console)


@dataclasses.dataclass(frozen=True)
class Examined:
    """A toy world whose validation images are an controls."""

    name: str
    task: Any
    images: int

    def controls(self, model: Any, say: Callable[[str], None]) -> Any:
        """The score with its controls."""
        from hyperseg_jax.evaluation.text_controls import referring_with_controls

        return referring_with_controls(model.engine, self.task, limit=self.images, log=say)


def show_held_out(page: Page, model: Any, known: Examined, say: Callable[[str], None]) -> None:
    say("segmenting held-out images by text (the first call compiles, which takes a while)")
    controls = known.controls(model, say)
    say(
        f"referring cIoU: {controls.ciou:.2f}   (expressions shuffled: {controls.shuffled_ciou:.2f}, "
        f"best answer that ignores the text: {controls.blind_ciou:.2f})"
    )
    page.heading("1. Images it has never seen, segmented by text")
    page.figure(f"referring cIoU: {controls.ciou:.2f}")
    page.text(
        "cIoU is the area found rightly, divided by all area found or asked for, over every expression of the controls. The "
        "last line is the best of several answers that never see the text; with texts swapped between images a model "
        "that reads them must fail."
    )
    page.table(("answer by", "cIoU", "gIoU"), [(what, f"{c:.2f}", f"{g:.2f}") for what, c, g in controls.lines()])
    page.image(sheet(controls.evaluation.tiles, 3), "Left what the text names, right what the model found.")


def show_prompts(page: Page, model: Any, world: pathlib.Path) -> None:
    """One image asked by a list of classes, by a point and by a box."""
    from hyperseg_jax import toy

    example = toy.open_reader(world, "panoptic", "val", max_classes=8)[0]
    frame, asked = example.frames[0], example.prompts[0]
    names = [name for name, thing in zip(asked.classes, asked.things, strict=True) if thing]
    stuff = [name for name, thing in zip(asked.classes, asked.things, strict=True) if not thing]
    found = model.segment_classes(frame, names, stuff=stuff)
    tiles = [
        caption(
            overlay(frame, list(found.masks), tint=True),
            "classes: " + ", ".join(found.names),
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
            caption(
                np.concatenate([mark, draw_segments(example.frames[0], [segment])], 1)[:, :384],
                f"{prompt.regions[0].kind}, and what it marks",
                height=44,
            )
        )
    page.heading("2. The same model, asked in other ways")
    page.text("By a list of classes (every instance apart, without overlap), and by a mark drawn on the object.")
    page.image(sheet(tiles, 2), "A class list, then drawn marks (magenta) and the object behind each.")


def show_clip(page: Page, model: Any, world: pathlib.Path, say: Callable[[str], None]) -> None:
    from hyperseg_jax import toy

    say("segmenting a clip, frame by frame")
    example = toy.open_reader(world, "video", "val")[0]
    text = example.prompts[0].text
    tiles = [
        caption(draw_segments(frame, segments), f"frame {t + 1}")
        for t, (frame, segments) in enumerate(model.segment_clip(example.frames, text))
    ]
    page.heading("3. A clip")
    page.text(f"“{text}”: what the model saw of one frame feeds the next.")
    page.image(sheet(tiles, 4), text)


def fine_tune(
    page: Page,
    config: Any,
    tiny: Any,
    known: Examined,
    new: Examined,
    workdir: pathlib.Path,
    console: Console,
    say: Callable[[str], None],
) -> pathlib.Path:
    """Trains, stops halfway, goes on, and shows before and after. Returns the workdir."""
    from hyperseg_jax.predictors.model import Model
    from hyperseg_jax.training.loop import train

    say("the controls on what was held back: the colour pink and the shape heart")
    old_before, new_before = known.controls(tiny, say), new.controls(tiny, say)
    steps = config.train.steps
    say(f"fine-tuning for {steps} steps with LoRA; it stops once on the way, to show that it can go on")
    began = time.monotonic()
    train(config, workdir, console=console, stop_at=steps // 2)
    say("stopped; starting the same run again")
    train(config, workdir, console=console)
    minutes = (time.monotonic() - began) / 60
    tuned = Model.load(workdir)
    old_after, new_after = known.controls(tuned, say), new.controls(tuned, say)
    rows = [("what was held back", new_before.ciou, new_after.ciou), ("what it knew", old_before.ciou, old_after.ciou)]
    table = Table("referring cIoU", "before", "after", "change")
    for what, before, after in rows:
        table.add_row(what, f"{before:.2f}", f"{after:.2f}", f"{after - before:+.2f}")
    console.print(table)
    page.heading("4. Teaching it something new")
    page.text(
        f"Pink things and hearts never stood in its training images. {steps} steps on {len(new.task.train)} images "
        f"({minutes:.1f} minutes) with low-rank adapters in the language model and the decoders trained; both encoders "
        "stay frozen. The run was stopped halfway and resumed from its checkpoint."
    )
    page.table(
        ("referring cIoU", "before", "after", "change"),
        [(what, f"{b:.2f}", f"{a:.2f}", f"{a - b:+.2f}") for what, b, a in rows],
    )
    page.image(before_and_after(tiny, tuned, new), "Asked for, found before, found after.")
    page.image(workdir / "loss.png", "Training loss of the fine-tuning.")
    return workdir


def before_and_after(tiny: Any, tuned: Any, new: Examined, count: int = 8) -> np.ndarray:
    """Rows of (asked for, before, after) for expressions that name something, one an image."""
    tiles: list[np.ndarray] = []
    for index in range(len(new.task.val)):
        example = new.task.val[index]
        prompt = next((p for p in example.prompts if len(p.masks) and any(w in p.text for w in ("pink", "heart"))), None)
        if prompt is None:
            continue
        frame = example.frames[0]
        panels = [overlay(frame, [mask[0] for mask in prompt.masks])]
        panels += [draw_segments(frame, model.segment(frame, prompt.text)) for model in (tiny, tuned)]
        tiles.append(caption(_beside(panels), prompt.text))
        if len(tiles) == count:
            break
    return sheet(tiles, 2)


def _beside(panels: Sequence[np.ndarray], gap: int = 4) -> np.ndarray:
    white = np.full((panels[0].shape[0], gap, 3), 255, np.uint8)
    parts = [part for panel in panels for part in (white, panel)][1:]
    return np.concatenate(parts, axis=1)


def _clock(began: float) -> str:
    minutes, seconds = divmod(int(time.monotonic() - began), 60)
    return f"{minutes}:{seconds:02d}"
