"""How texts are generated: the options of greedy decoding, sampling and beam search."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.struct
from jaxtyping import Int, Num

from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import DeviceArray
from hyperseg_jax.untrusted.printing import escaped_value

KINDS = {
    "greedy": "the most probable token at each step",
    "sampling": "a random token at each step",
    "beams": "beam search",
}
OPTIONS = {"sampling": ("temperature", "top_k", "top_p"), "beams": ("beams", "length_penalty")}
"""Options that only one kind reads."""

MOST_BEAMS = 64
RANGES: dict[str, tuple[tuple[type, ...], float, float]] = {
    "max_new_tokens": ((int,), 1, 4096),
    "beams": ((int,), 1, MOST_BEAMS),
    "chunk": ((int,), 1, 2**31 - 1),
    "temperature": ((int, float), 1e-6, 1e6),
    "top_k": ((int,), 0, 2**31 - 1),
    "top_p": ((int, float), 1e-6, 1),
    "length_penalty": ((int, float), -8, 8),
}
"""Types, least and largest value of each number. Within these, memory is bounded, and float32 holds all scores."""
NOTES = {
    "temperature": "; for the most probable use kind='greedy'",
    "top_k": "; 0 keeps all tokens",
    "top_p": "; 1 keeps all tokens",
}

Number = float | Num[DeviceArray, ""]
Token = int | Int[DeviceArray, ""]


def _static(default: Any) -> Any:
    """Returns a field that is part of the compiled program."""
    return flax.struct.field(pytree_node=False, default=default)


@flax.struct.dataclass
class Decoding:
    """How texts are generated.

    kind: one of KINDS. max_new_tokens: maximum length of a text, in tokens.
    temperature, top_k, top_p: of sampling, applied in this order: the logits are divided by the temperature; the top_k most
    probable tokens are kept (0: all), and of these the fewest whose probabilities reach top_p.
    beams, length_penalty: of beam search, see llms/beams.py: the number of beams, and the power of the length by which sums of
    log-probabilities are divided.
    chunk: number of texts of an example that are generated at the same time; None: all. Fewer need less memory.
    eos_id: ends a text; inside of jit, it may be an array. vocab_size: ids >= vocab_size are never generated, since a head may
    be larger than the vocabulary. None: those of the tokenizer.
    """

    kind: str = _static("greedy")
    max_new_tokens: int = _static(64)
    temperature: Number = 1.0
    top_k: Number = 0
    top_p: Number = 1.0
    beams: int = _static(3)
    length_penalty: Number = 1.0
    chunk: int | None = _static(None)
    eos_id: Token | None = _static(None)
    vocab_size: int | None = _static(None)

    @property
    def end_id(self) -> Token:
        """The end token; -1, which is no token, if there is none."""
        return -1 if self.eos_id is None else self.eos_id

    def replaced(self, changes: Mapping[str, Any]) -> Decoding:
        """Returns the options with some changed. Raises UserError if one of these is unknown, or only read by another kind."""
        names = [field.name for field in dataclasses.fields(self)]
        if unknown := [name for name in changes if name not in names]:
            raise UserError(f"{unknown[0]} is no option of text generation; use some of {', '.join(names)}")
        changed = dataclasses.replace(self, **changes)
        for kind, options in OPTIONS.items():
            unread = [name for name in changes if name in options]
            if unread and changed.kind in KINDS and changed.kind != kind:
                raise UserError(f"{unread[0]} is only for kind = {kind!r}, and kind is {changed.kind!r}; give kind={kind!r}")
        return changed

    def for_tokenizer(self, eos_id: int, vocab_size: int) -> Decoding:
        """Returns the options with the eos_id and vocab_size of the tokenizer, unless they have their own."""
        end = eos_id if self.eos_id is None else self.eos_id
        return dataclasses.replace(self, eos_id=end, vocab_size=vocab_size if self.vocab_size is None else self.vocab_size)

    def check(self) -> Decoding:
        """Returns the options unchanged. Raises UserError that names the first invalid one."""
        if self.kind not in KINDS:
            raise UserError(f"kind = {self.kind!r}: use one of {', '.join(KINDS)}")
        for name, (kinds, least, most) in RANGES.items():
            value = getattr(self, name)
            if not (name == "chunk" and value is None) and (type(value) not in kinds or not least <= value <= most):
                what = "an integer" if kinds == (int,) else "a number"
                raise UserError(f"{name} = {escaped_value(value)}: must be {what} from {least} to {most}{NOTES.get(name, '')}")
        return self
