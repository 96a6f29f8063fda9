"""The records of the toy world before they become files: each follows from the world and its place alone."""

from __future__ import annotations

import dataclasses

import numpy as np

from hyperseg_jax.datasets import visual_prompts
from hyperseg_jax.errors import UserError
from hyperseg_jax.toy import clips, expressions, questions, scenes
from hyperseg_jax.toy.vocabulary import VERSION

SPLITS = ("train", "val", "compositional")
CLIP_EXPRESSIONS = 4
MIN_THINGS, MAX_THINGS = 3, 6
_KINDS = {"known": scenes.KNOWN, "held_back": scenes.HELD_BACK}
_STREAMS = {"picture": 0, "reasoning": 1, "clip": 2, "deck": 3}
_ATTEMPTS = 2000


@dataclasses.dataclass(frozen=True)
class World:
    """The parameters of a toy world; two worlds of the same parameters are the same files.

    train, val, compositional: images of each split (a quarter as many more carry reasoning questions).
    clips: clips to train on (a fifth as many more for val). level: "default" or "hard".
    kinds: "known", or "held_back" for images about the colour and the shape that the others never show.
    expressions: referring expressions an image.
    """

    seed: int = 0
    train: int = 2000
    val: int = 200
    compositional: int = 200
    clips: int = 200
    level: str = "default"
    kinds: str = "known"
    expressions: int = 6
    version: int = VERSION

    def __post_init__(self):
        if self.level not in scenes.LEVELS:
            raise UserError(f"level={self.level!r} is unknown; choose one of {', '.join(scenes.LEVELS)}")
        if self.kinds not in _KINDS:
            raise UserError(f"kinds={self.kinds!r} is unknown; choose one of {', '.join(_KINDS)}")
        if self.kinds == "held_back" and self.compositional:
            raise UserError("compositional images exist for kinds='known' only; pass compositional=0")
        for field in ("seed", "train", "val", "compositional", "clips"):
            if getattr(self, field) < 0:
                raise UserError(f"{field}={getattr(self, field)} is negative; give a number from 0")
        if not 1 <= self.expressions <= 10:
            raise UserError(f"expressions={self.expressions} does not fit; give a number from 1 to 10")

    def images(self, split: str) -> int:
        return {"train": self.train, "val": self.val, "compositional": self.compositional}[split]

    def reasoning_images(self, split: str) -> int:
        return -(-self.images(split) // 4)

    def clip_count(self, split: str) -> int:
        return {"train": self.clips, "val": -(-self.clips // 5), "compositional": 0}[split]

    def kinds_of(self, split: str) -> scenes.Kinds:
        return scenes.COMPOSITIONAL if split == "compositional" else _KINDS[self.kinds]

    def rng(self, split: str, stream: str, index: int) -> np.random.Generator:
        place = (SPLITS.index(split), _STREAMS[stream], list(_KINDS).index(self.kinds))
        return np.random.default_rng([self.version, self.seed, *place, index])


@dataclasses.dataclass(frozen=True)
class ToyImage:
    """A drawn scene and all that is written about it. pixels: uint8 [SIZE, SIZE, 3]; marks: for each thing, by kind."""

    scene: scenes.Scene
    pixels: np.ndarray
    expressions: list[expressions.Expression]
    marks: list[dict[str, np.ndarray]]
    conversation: list[tuple[str, str]]


def _dealt_groups(world: World, split: str, index: int) -> list[str]:
    """The groups of one image's expressions: the next cards of the split's endless row of shuffled decks."""
    groups = []
    for card in range(index * world.expressions, (index + 1) * world.expressions):
        deck, place = divmod(card, len(expressions.DECK))
        groups.append(expressions.DECK[world.rng(split, "deck", deck).permutation(len(expressions.DECK))[place]])
    return groups


def image(world: World, split: str, index: int) -> ToyImage:
    """The image at one place of a split."""
    rng = world.rng(split, "picture", index)
    kinds = world.kinds_of(split)
    groups = _dealt_groups(world, split, index)
    for _ in range(_ATTEMPTS):
        scene = scenes.sample(kinds, int(rng.integers(MIN_THINGS, MAX_THINGS + 1)), world.level, rng)
        written = expressions.write_expressions(scene, groups, kinds, rng) if scene else None
        if scene and written:
            pixels = scenes.render(scene, world.level, rng)
            drawn = [visual_prompts.draw_marks(mask, rng) for mask in scene.masks]
            return ToyImage(scene, pixels, written, drawn, questions.conversation(scene, rng))
    raise RuntimeError(f"no scene carries the expressions {groups} ({split} image {index})")


def reasoning_image(world: World, split: str, index: int) -> tuple[scenes.Scene, np.ndarray, questions.Question]:
    """A scene, its pixels and one reasoning question about it. Kinds of question are drawn evenly."""
    rng = world.rng(split, "reasoning", index)
    group = scenes.pick(rng, ("counting", "comparison"))
    for _ in range(_ATTEMPTS):
        scene = scenes.sample(world.kinds_of(split), int(rng.integers(MIN_THINGS, MAX_THINGS + 1)), world.level, rng)
        asked = [question for question in questions.reasoning(scene) if question.group == group] if scene else []
        if scene and asked:
            return scene, scenes.render(scene, world.level, rng), scenes.pick(rng, asked)
    raise RuntimeError(f"no scene carries a question of {group} ({split} reasoning image {index})")


def clip(world: World, split: str, index: int) -> tuple[clips.Clip, np.ndarray, list[expressions.Expression]]:
    """A clip, its frames and its expressions."""
    rng = world.rng(split, "clip", index)
    kinds = world.kinds_of(split)
    shares = clips.SHARES
    groups = [str(name) for name in rng.choice(list(shares), size=CLIP_EXPRESSIONS, p=list(shares.values()))]
    for _ in range(_ATTEMPTS):
        drawn = clips.sample(kinds, int(rng.integers(3, 6)), world.level, rng)
        written = clips.write_expressions(drawn, groups, kinds, rng) if drawn else None
        if drawn and written:
            return drawn, clips.render(drawn, world.level, rng), written
    raise RuntimeError(f"no clip carries the expressions {groups} ({split} clip {index})")
