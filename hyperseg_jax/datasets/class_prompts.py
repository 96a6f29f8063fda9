"""Class-list prompts: all classes of a benchmark, or the classes of an image mixed with sampled negative classes."""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Sequence

import numpy as np

from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import Prompt
from hyperseg_jax.untrusted import budget
from hyperseg_jax.untrusted.printing import escaped, escaped_value

SYNONYM = "|"
"""Separates the names of a class, as in "giraffe|camelopard"."""
MOST_PROMPTS = 4096
"""Maximum number of class lists per image."""
KNOWN = 20
"""Maximum number of class names in a message."""


@dataclasses.dataclass(frozen=True)
class ClassLists:
    """Builds the class-list prompts of a reader.

    names, things: all classes in the order of the benchmark, and whether each is a thing class (its instances are separate).
    max_classes: maximum length of a class list. The list contains the classes of the image and sampled negative classes in
        random order, determined by seed, index and prompt number. Classes of the image beyond the maximum are dropped and
        their pixels ignored. None: all classes in order, for evaluation.
    prompts_per_example: number of class lists per image.
    chosen: the class list in place of names, in this order; an entry is a name, or several with SYNONYM between them, of which
        at least one is in names. Pixels of all other classes are ignored. Empty: all names.
    """

    names: tuple[str, ...]
    things: tuple[bool, ...]
    max_classes: int | None = None
    prompts_per_example: int = 1
    seed: int = 0
    chosen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_classes is not None and self.max_classes < 1:
            raise UserError(f"max_classes={self.max_classes} is too few; give at least 1, or none for every class")
        if self.prompts_per_example < 1:
            raise UserError(f"prompts_per_example={self.prompts_per_example} is too few; give at least 1")
        if self.prompts_per_example > MOST_PROMPTS:
            raise UserError(f"prompts_per_example={self.prompts_per_example} is too many; give at most {MOST_PROMPTS}")
        _ = self._new_labels  # raises for unknown names

    @property
    def classes(self) -> tuple[str, ...]:
        """The class list."""
        return self.chosen or self.names

    @functools.cached_property
    def are_things(self) -> tuple[bool, ...]:
        """For each class of the list, whether it is a thing class."""
        things = {label for label, is_thing in zip(self._new_labels, self.things, strict=True) if is_thing}
        return tuple(k in things for k in range(len(self.classes)))

    @functools.cached_property
    def _new_labels(self) -> tuple[int, ...]:
        """The number in the class list of each of `names`; -1 if it is not in the list."""
        if not self.chosen:
            return tuple(range(len(self.names)))
        wanted: dict[str, int] = {}
        for k, entry in enumerate(self.chosen):
            for name in entry.split(SYNONYM):
                if name in wanted:
                    raise UserError(f"chosen has the class {escaped_value(name)} twice; give each name once")
                wanted[name] = k
        found = tuple(wanted.get(name, -1) for name in self.names)
        if missing := [self.chosen[k] for k in sorted({*range(len(self.chosen))} - {*found})]:
            near = difflib.get_close_matches(missing[0].split(SYNONYM)[0], self.names, 1)
            hint = f"; did you mean {escaped_value(near[0])}?" if near else ""
            known = ", ".join(self.names[:KNOWN]) + (", ..." if len(self.names) > KNOWN else "")
            raise UserError(
                f"the labelled images have no class {escaped_value(missing[0])}{hint}; choose some of {escaped(known)}"
            )
        return found

    def build_prompts(
        self,
        index: int,
        masks: np.ndarray,
        labels: list[int],
        ignore: np.ndarray,
        key: str = "",
        crowds: Sequence[tuple[int, np.ndarray]] = (),
        areas: Sequence[float] = (),
    ) -> tuple[Prompt, ...]:
        """Returns the prompts of one image.

        masks: bool [N, H, W]. labels: the class of each mask. ignore: bool [H, W]. crowds: (class, mask) of crowd regions.
        areas: see Prompt. Raises UserError if the masks of all prompts exceed the limits of a record.
        """
        labels = [self._new_labels[label] for label in labels]
        crowds = [(self._new_labels[label], mask) for label, mask in crowds]
        return tuple(
            self._build_prompt(index, k, masks, labels, ignore, key, crowds, areas) for k in range(self.prompts_per_example)
        )

    def choose(self, index: int, k: int, labels: Sequence[int]) -> list[int]:
        """Returns the numbers of the classes in the list of prompt k of record `index`. labels: of its objects, -1 for none."""
        chosen = list(range(len(self.classes)))
        if self.max_classes is None:
            return chosen
        rng = np.random.default_rng([self.seed, index, k])
        present = dict.fromkeys(label for label in labels if label >= 0)
        positives, negatives = list(present), [label for label in chosen if label not in present]
        positives, negatives = ([group[i] for i in rng.permutation(len(group))] for group in (positives, negatives))
        chosen = (positives + negatives)[: self.max_classes]
        return [chosen[i] for i in rng.permutation(len(chosen))]

    def _build_prompt(
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
        budget.check_time(f"image {key or index}")
        classes, things = self.classes, self.are_things
        chosen = self.choose(index, k, labels)
        new_label = {label: i for i, label in enumerate(chosen)}
        kept = [i for i, label in enumerate(labels) if label in new_label]
        budget.charge_masks(len(kept), masks.shape[1:], f"image {key or index}")
        dropped = np.array([label not in new_label for label in labels], bool)
        ignore = ignore | masks[dropped].any(0)
        kept_crowds = [(new_label[label], mask) for label, mask in crowds if label in new_label]
        return Prompt(
            task="panoptic",
            classes=tuple(classes[label] for label in chosen),
            things=tuple(things[label] for label in chosen),
            masks=masks[kept][:, None],
            labels=tuple(new_label[labels[i]] for i in kept),
            ignore=ignore[None] if ignore.any() else None,
            crowds=np.stack([mask for _, mask in kept_crowds])[:, None] if kept_crowds else None,
            crowd_labels=tuple(label for label, _ in kept_crowds),
            areas=tuple(areas[i] for i in kept) if areas else (),
            key=key,
        )


class ClassListReader:
    """Base class of readers with class-list prompts."""

    _class_lists: ClassLists

    @property
    def classes(self) -> tuple[str, ...]:
        """All class names, in the order of the benchmark."""
        return self._class_lists.classes

    @property
    def things(self) -> tuple[bool, ...]:
        """For each class, whether it is a thing class (its instances are separate)."""
        return self._class_lists.are_things


class CategoryReader(ClassListReader):
    """Base class of readers whose classes have category ids in the annotation file."""

    _class_index: dict[int, int]
    """Category id -> index in the class list."""

    @property
    def category_ids(self) -> tuple[int, ...]:
        """The category id of each class."""
        return tuple(self._class_index)
