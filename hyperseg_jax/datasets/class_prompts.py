"""Class-list prompts: all classes of a benchmark, or those of an image among some that it does not show."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Prompt


@dataclasses.dataclass(frozen=True)
class ClassLists:
    """What a reader's class-list prompts name.

    names, things: every class in the benchmark's order, and whether its instances are counted apart.
    max_classes: the class list of a prompt is what the image shows and classes it does not show, up to this number (shown
    classes beyond it are left out and their pixels ignored), in random order, drawn from seed, index and prompt. None: every
    class in order, as an evaluation wants it.
    prompts_per_example: class lists of one image.
    """

    names: tuple[str, ...]
    things: tuple[bool, ...]
    max_classes: int | None = None
    prompts_per_example: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_classes is not None and self.max_classes < 1:
            raise UserError(f"max_classes={self.max_classes} is too few; give at least 1, or none for every class")
        if self.prompts_per_example < 1:
            raise UserError(f"prompts_per_example={self.prompts_per_example} is too few; give at least 1")

    def prompts(
        self,
        index: int,
        masks: np.ndarray,
        labels: list[int],
        ignore: np.ndarray,
        key: str = "",
        crowds: Sequence[tuple[int, np.ndarray]] = (),
        areas: Sequence[float] = (),
    ) -> tuple[Prompt, ...]:
        """The prompts of one image. masks: bool [N, H, W]; labels: the class of each; ignore: bool [H, W]; crowds: its parts
        that are a crowd of a class, with the class; areas: see Prompt."""
        return tuple(self._prompt(index, k, masks, labels, ignore, key, crowds, areas) for k in range(self.prompts_per_example))

    def _prompt(
        self,
        index: int,
        k: int,
        masks: np.ndarray,
        labels: list[int],
        ignore: np.ndarray,
        key: str,
        crowds: Sequence[tuple[int, np.ndarray]],
        areas: Sequence[float],
    ) -> Prompt:
        chosen = list(range(len(self.names)))
        if self.max_classes is not None:
            rng = np.random.default_rng([self.seed, index, k])
            shown = list(dict.fromkeys(labels))
            others = [label for label in chosen if label not in shown]
            shown, others = ([group[i] for i in rng.permutation(len(group))] for group in (shown, others))
            chosen = (shown + others)[: self.max_classes]
            chosen = [chosen[i] for i in rng.permutation(len(chosen))]
        place = {label: i for i, label in enumerate(chosen)}
        kept = [i for i, label in enumerate(labels) if label in place]
        left_out = np.array([label not in place for label in labels], bool)
        hidden = ignore | masks[left_out].any(0)
        massed = [(place[label], mask) for label, mask in crowds if label in place]
        return Prompt(
            task="panoptic",
            classes=tuple(self.names[label] for label in chosen),
            things=tuple(self.things[label] for label in chosen),
            masks=masks[kept][:, None],
            labels=tuple(place[labels[i]] for i in kept),
            ignore=hidden[None] if hidden.any() else None,
            crowds=np.stack([mask for _, mask in massed])[:, None] if massed else None,
            crowd_labels=tuple(label for label, _ in massed),
            areas=tuple(areas[i] for i in kept) if areas else (),
            key=key,
        )


class ClassListReader:
    """A reader whose prompts name classes."""

    _class_lists: ClassLists

    @property
    def classes(self) -> tuple[str, ...]:
        """Every class, in the benchmark's order."""
        return self._class_lists.names

    @property
    def things(self) -> tuple[bool, ...]:
        """For each class, whether its instances are counted apart."""
        return self._class_lists.things


class CategoryReader(ClassListReader):
    """A reader whose classes have numbers in its file, in the order of the class list."""

    _class_index: dict[int, int]
    """Number in the file -> place in the class list."""

    @property
    def category_ids(self) -> tuple[int, ...]:
        """For each class, its number in the file."""
        return tuple(self._class_index)
