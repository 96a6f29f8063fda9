"""Prompt templates with markers, and their conversion to token ids.

A template is a string with markers such as "<image>" or "<seg>", slots for the texts of a user, "{text}" and "{answer}", and
"<gt>", the place of given token ids. Text of a user is never searched for markers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol

from hyperseg_jax.systems.psalm.markers import Marker

SEG = "[SEG]"  # the token that represents a mask
END = "<|endoftext|>"  # end of text
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)
ROUND = "USER: {question} ASSISTANT: "
TEMPLATES = {
    "v0": SYSTEM + ROUND,
    "short": ROUND,  # ours: without the system sentence, for small models
}
"""Templates of a first round; later rounds are ROUND."""
_MARKERS = {f"<{marker.name.lower()}>": marker for marker in Marker}
_SPLIT = re.compile("(" + "|".join(map(re.escape, (*_MARKERS, "<gt>", SEG))) + ")")
_SLOT = re.compile(r"\{text\}|\{answer\}")


class TokenIds(Protocol):
    """The tokenizer interface used here; encode adds no special tokens."""

    eos_id: int

    def id_of(self, token: str) -> int: ...
    def encode(self, text: str) -> list[int]: ...


def split_template(template: str, words: Mapping[str, str]) -> list[str]:
    """Splits the template at its markers, then inserts the user's text, which is never split."""
    return [_SLOT.sub(lambda slot: words[slot.group()], piece) for piece in _SPLIT.split(template)]


def encode_pieces(pieces: list[str], tokenizer: TokenIds, answer_ids: tuple[int, ...] = ()) -> tuple[int, ...]:
    """Returns the token ids of a split template. Even pieces are texts, each encoded separately; odd pieces are markers.

    answer_ids: token ids that replace the marker <gt>.
    """
    ids: list[int] = []
    for k, piece in enumerate(pieces):
        if k % 2 == 0:
            ids += tokenizer.encode(piece) if piece else []
        elif piece == "<gt>":
            ids += answer_ids
        else:
            ids.append(tokenizer.id_of(SEG) if piece == SEG else int(_MARKERS[piece]))
    return tuple(ids)
