"""Hybrid entity recognition (HyperSeg, arXiv 2411.17606, section 3): how the answer to a class list names what is in the image.

The text of such an answer is the names, with separators, and then [SEG], which ends them; the mask queries follow. So the masks
are predicted by queries that have read the names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import ml_collections
import numpy as np

from hyperseg_jax.errors import UserError
from hyperseg_jax.llms.decoding import MOST_BEAMS, Decoding
from hyperseg_jax.structs import Prompt
from hyperseg_jax.systems.psalm.markers import Name
from hyperseg_jax.systems.psalm.templates import SEG, TokenIds
from hyperseg_jax.untrusted.printing import escaped_value

RECOGNITION = ("decoding", "generation", "hybrid")
ORDERS = ("size", "list")
LONGEST_TEXT = 100
"""Letters of the separator, and of the text for nothing."""
PREDICTION_FIELDS = ("restricted", "beams", "given")
"""The fields that only choose where the names come from, with the same weights."""


@dataclasses.dataclass(frozen=True)
class Entities:
    """The fields of config.model.entities; without this block, these defaults.

    recognition:
        "decoding": the answer is fixed, and masks are classified by the class names in the prompt, as in the released weights.
        "hybrid": the answer names the entities first; masks are classified by the class names in the prompt.
        "generation": an ablation. The prompt has no class names, and masks are classified by the names in the answer.
    order: of the names: "size", the largest area first; "list", as in the class list. separator: between two names. repeats:
    whether each object is named, or each class once. none: the text if nothing of the list is in the image. limit: maximum
    number of names; the first are kept. tokens: maximum number of tokens of the names with [SEG]; further names are left out.
    restricted: only names of the class list are written; otherwise any text. beams: width of the beam search; 1 is greedy.
    given: whether evaluation gives the model the true names, so that it writes none: an upper bound.
    """

    recognition: str = "decoding"
    order: str = "size"
    separator: str = ", "
    repeats: bool = False
    none: str = "none"
    limit: int = 32
    tokens: int = 128
    restricted: bool = True
    beams: int = 1
    given: bool = False

    def __post_init__(self) -> None:
        for field, allowed in (("recognition", RECOGNITION), ("order", ORDERS)):
            if (value := getattr(self, field)) not in allowed:
                raise UserError(f"model.entities.{field} = {escaped_value(value)}: use one of {', '.join(allowed)}")
        for field, most in (("limit", 1024), ("tokens", 1024), ("beams", MOST_BEAMS)):
            value = getattr(self, field)
            if type(value) is not int or not 1 <= value <= most:
                raise UserError(f"model.entities.{field} = {escaped_value(value)}: give an integer from 1 to {most}")
        for field in ("repeats", "restricted", "given"):
            if type(value := getattr(self, field)) is not bool:
                raise UserError(f"model.entities.{field} = {escaped_value(value)}: give True or False")
        for field in ("separator", "none"):
            value = getattr(self, field)
            if not value.strip() or SEG in value or not value.isprintable() or len(value) > LONGEST_TEXT:
                raise UserError(
                    f"model.entities.{field} = {escaped_value(value)}: give a printable text of at most {LONGEST_TEXT} letters "
                    f"without {SEG}, such as {getattr(Entities, field)!r}"
                )
        if self.separator.strip() in self.none:
            raise UserError(f"model.entities.none = {self.none!r} contains the separator; give another text")
        if self.recognition == "generation" and not self.restricted:
            raise UserError(
                "model.entities: recognition = 'generation' needs restricted = True, since other names have no class"
            )

    @classmethod
    def from_config(cls, config: ml_collections.ConfigDict) -> Entities:
        """Returns the fields of config.model.entities."""
        return cls(**config.model.get("entities", {}))

    @property
    def writes(self) -> bool:
        """Whether the answer to a class list names the entities."""
        return self.recognition != "decoding"

    @property
    def lists_classes(self) -> bool:
        """Whether the prompt has the class list."""
        return self.recognition != "generation"

    def decoding(self) -> Decoding:
        """Returns how names are generated."""
        kind = "greedy" if self.beams == 1 else "beams"
        return Decoding(kind=kind, max_new_tokens=self.tokens, beams=max(self.beams, 2))

    def check_names(self, names: tuple[str, ...]) -> None:
        """Raises UserError if a name could not be told from the rest of the answer."""
        separator = self.separator.strip()
        for name in names:
            if separator in name:
                raise UserError(
                    f"the name {escaped_value(name)} contains {separator!r}, which separates names in the answer; change "
                    "model.entities.separator, or the name"
                )
            if name == self.none.strip():
                raise UserError(
                    f"the name {escaped_value(name)} is also model.entities.none, the answer if nothing of the list is "
                    "in the image; change one of them"
                )

    def present(self, prompt: Prompt) -> tuple[str, ...]:
        """Returns the names of the entities in the image, in the order in which the answer names them.

        They are prompt.entities, or those of its targets with at least one pixel."""
        if prompt.entities is not None:
            return prompt.entities
        areas = [] if prompt.masks is None else [int(np.count_nonzero(mask)) for mask in prompt.masks]
        found = [(area, label) for area, label in zip(areas, prompt.labels, strict=True) if area]
        ordered = sorted(found, key=lambda each: -each[0] if self.order == "size" else each[1])
        names = [prompt.classes[label] for _, label in ordered]
        return tuple(names if self.repeats else dict.fromkeys(names))

    def give(self, prompt: Prompt) -> Prompt:
        """Returns the prompt of an evaluation with the true names of a class list, if `given`; otherwise without names."""
        told = self.given and self.writes and bool(prompt.classes) and prompt.masks is not None
        return dataclasses.replace(prompt, entities=self.present(prompt) if told else None)

    def answer(self, prompt: Prompt, tokenizer: TokenIds) -> tuple[Name, ...]:
        """Returns the names of the answer as token ids, ended by [SEG], which counts as the name of the background."""
        label_of = {name: label for label, name in reversed(list(enumerate(prompt.classes, 1)))}
        separator, end = tuple(tokenizer.encode(self.separator)), Name((tokenizer.id_of(SEG),), len(prompt.classes) + 1)
        names: list[Name] = []
        length = len(end.ids)
        for name in self.present(prompt)[: self.limit] or (self.none,):
            ids = tuple(tokenizer.encode(name))
            added = len(ids) + len(separator) * bool(names)
            if length + added > self.tokens:
                break
            names += [Name(separator, 0)] * bool(names) + [Name(ids, label_of.get(name, 0))]
            length += added
        return (*names, end)

    def choices(self, classes: tuple[str, ...], tokenizer: TokenIds) -> list[tuple[int, ...]]:
        """Returns the token ids of each class name, and last those of `none`, each after the separator."""
        separator = tuple(tokenizer.encode(self.separator))
        return [(*separator, *tokenizer.encode(name)) for name in (*classes, self.none)]

    def split(self, text: str) -> tuple[str, ...]:
        """Returns the names in a text that the model wrote."""
        names = tuple(name.strip() for name in text.split(self.separator.strip()))
        return () if names == (self.none.strip(),) else tuple(name for name in names if name)


def name_splitter(config: ml_collections.ConfigDict) -> Callable[[str], tuple[str, ...]] | None:
    """Returns f(text) -> the names in a text that the model wrote; None if it writes none."""
    entities = Entities.from_config(config)
    return entities.split if entities.writes else None


def make_give(config: ml_collections.ConfigDict) -> Callable[[Prompt], Prompt]:
    """Returns f(prompt) -> the prompt with the true names, if config.model.entities.given."""
    return Entities.from_config(config).give


RELEASED = Entities()
"""Answers without names, as in the released weights."""
