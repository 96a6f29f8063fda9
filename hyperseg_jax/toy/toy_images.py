"""Generates the records of a toy world; each is determined by the world, the split and its index."""

from __future__ import annotations

import dataclasses

import numpy as np

from hyperseg_jax.datasets import visual_prompts
from hyperseg_jax.errors import UserError
from hyperseg_jax.toy import expressions, occlusion_videos, questions, scenes, videos
from hyperseg_jax.toy.vocabulary import VERSION
from hyperseg_jax.untrusted.printing import escaped_value

SPLITS = ("train", "val", "compositional")
CLIP_EXPRESSIONS = 4
MIN_THINGS, MAX_THINGS = 3, 6
VIDEOS = {
    "default": (videos.sample_video, (3, 6)),
    "occlusion": (occlusion_videos.sample_video, (4, 6)),
}
"""Kinds of videos: how one is sampled, and its number of objects (minimum, maximum + 1)."""
_KINDS = {"known": scenes.KNOWN, "held_back": scenes.HELD_BACK}
_STREAMS = {"image": 0, "reasoning": 1, "clip": 2, "deck": 3, "caption": 4}
_ATTEMPTS = 2000


@dataclasses.dataclass(frozen=True)
class World:
    """The parameters of a toy world; worlds with equal parameters have identical files.

    train, val, compositional: images of each split (plus a quarter as many with reasoning questions).
    clips: training videos (plus a fifth as many for val). level: "default" or "hard".
    kinds: "known", or "held_back" for images of the colour and the shape that are held out from the other worlds.
    expressions: referring expressions per image. videos: "default" for objects that move at constant speed, or "occlusion" for
    objects that cross, vanish behind others and return, enter late and leave.
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
    videos: str = "default"

    def __post_init__(self):
        if self.level not in scenes.LEVELS:
            raise UserError(f"level={escaped_value(self.level)} is unknown; choose one of {', '.join(scenes.LEVELS)}")
        if self.kinds not in _KINDS:
            raise UserError(f"kinds={escaped_value(self.kinds)} is unknown; choose one of {', '.join(_KINDS)}")
        if self.videos not in VIDEOS:
            raise UserError(f"videos={escaped_value(self.videos)} is unknown; choose one of {', '.join(VIDEOS)}")
        if self.kinds == "held_back" and self.compositional:
            raise UserError("compositional images exist only for kinds='known'; pass compositional=0")
        for field in ("seed", "train", "val", "compositional", "clips"):
            if getattr(self, field) < 0:
                raise UserError(f"{field}={getattr(self, field)} is negative; pass a number >= 0")
        if not 1 <= self.expressions <= 10:
            raise UserError(f"expressions={self.expressions} is out of range; pass a number from 1 to 10")

    def parameters(self) -> dict[str, int | str]:
        """Returns the content of toy.json, which does not have the default kind of videos: earlier versions had no other."""
        return {name: value for name, value in vars(self).items() if (name, value) != ("videos", "default")}

    @property
    def has_tracks(self) -> bool:
        """Whether the files contain the objects of the videos, besides the expressions about them."""
        return self.videos == "occlusion"

    def image_count(self, split: str) -> int:
        return {"train": self.train, "val": self.val, "compositional": self.compositional}[split]

    def reasoning_image_count(self, split: str) -> int:
        return -(-self.image_count(split) // 4)

    def clip_count(self, split: str) -> int:
        return {"train": self.clips, "val": -(-self.clips // 5), "compositional": 0}[split]

    def kinds_of(self, split: str) -> scenes.Kinds:
        return scenes.COMPOSITIONAL if split == "compositional" else _KINDS[self.kinds]

    def rng(self, split: str, stream: str, index: int) -> np.random.Generator:
        position = (SPLITS.index(split), _STREAMS[stream], list(_KINDS).index(self.kinds))
        return np.random.default_rng([self.version, self.seed, *position, index])


@dataclasses.dataclass(frozen=True)
class ToyImage:
    """A rendered scene with its annotations. pixels: uint8 [SIZE, SIZE, 3]. marks: visual prompts of each object, by kind."""

    scene: scenes.Scene
    pixels: np.ndarray
    expressions: list[expressions.Expression]
    marks: list[dict[str, np.ndarray]]
    conversation: list[tuple[str, str]]


def _draw_expression_groups(world: World, split: str, index: int) -> list[str]:
    """Returns the groups of an image's expressions. All groups of a split are equally frequent: they are drawn in turn from
    shuffled decks."""
    groups = []
    for card in range(index * world.expressions, (index + 1) * world.expressions):
        deck, position = divmod(card, len(expressions.DECK))
        groups.append(expressions.DECK[world.rng(split, "deck", deck).permutation(len(expressions.DECK))[position]])
    return groups


def generate_image(world: World, split: str, index: int) -> ToyImage:
    """Generates an image of a split."""
    rng = world.rng(split, "image", index)
    kinds = world.kinds_of(split)
    groups = _draw_expression_groups(world, split, index)
    for _ in range(_ATTEMPTS):
        scene = scenes.sample_scene(kinds, int(rng.integers(MIN_THINGS, MAX_THINGS + 1)), world.level, rng)
        written = expressions.write_expressions(scene, groups, kinds, rng) if scene else None
        if scene and written:
            pixels = scenes.render_scene(scene, world.level, rng)
            drawn = [visual_prompts.draw_marks(mask, rng) for mask in scene.masks]
            return ToyImage(scene, pixels, written, drawn, questions.write_conversation(scene, rng))
    raise RuntimeError(f"no scene supports the expressions {groups} ({split} image {index})")


def generate_reasoning_image(world: World, split: str, index: int) -> tuple[scenes.Scene, np.ndarray, questions.Question]:
    """Generates a scene, its pixels and one reasoning question. Kinds of questions are sampled uniformly."""
    rng = world.rng(split, "reasoning", index)
    group = scenes.pick_one(rng, ("counting", "comparison"))
    for _ in range(_ATTEMPTS):
        scene = scenes.sample_scene(world.kinds_of(split), int(rng.integers(MIN_THINGS, MAX_THINGS + 1)), world.level, rng)
        matching = (
            [question for question in questions.find_reasoning_questions(scene) if question.group == group] if scene else []
        )
        if scene and matching:
            return scene, scenes.render_scene(scene, world.level, rng), scenes.pick_one(rng, matching)
    raise RuntimeError(f"no scene supports a {group} question ({split} reasoning image {index})")


def generate_video(world: World, split: str, index: int) -> tuple[videos.Video, np.ndarray, list[expressions.Expression]]:
    """Generates a video, its frames and its expressions."""
    rng = world.rng(split, "clip", index)
    kinds = world.kinds_of(split)
    shares = videos.SHARES
    groups = [str(name) for name in rng.choice(list(shares), size=CLIP_EXPRESSIONS, p=list(shares.values()))]
    sample_video, counts = VIDEOS[world.videos]
    for _ in range(_ATTEMPTS):
        drawn = sample_video(kinds, int(rng.integers(*counts)), world.level, rng)
        written = videos.write_video_expressions(drawn, groups, kinds, rng) if drawn else None
        if drawn and written:
            return drawn, videos.render_video(drawn, world.level, rng), written
    raise RuntimeError(f"no video supports the expressions {groups} ({split} clip {index})")
