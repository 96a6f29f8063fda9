"""How texts are generated: the options of greedy decoding, sampling and beam search."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

import flax.struct
from jaxtyping import Int, Num

from hyperseg_jax.errors import UserError
from hyperseg_jax.structs import DeviceArray

KINDS = {
    "greedy": "the most probable token at each step",
    "sampling": "a random token at each step",
    "beams": "beam search",
}
OPTIONS = {"sampling": ("temperature", "top_k", "top_p"), "beams": ("beams", "length_penalty")}
"""Options that only one kind reads."""

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
        eos_id = eos_id if self.eos_id is None else self.eos_id
        vocab_size = vocab_size if self.vocab_size is None else self.vocab_size
        return dataclasses.replace(self, eos_id=eos_id, vocab_size=vocab_size)

    def check(self) -> Decoding:
        """Returns the options unchanged. Raises UserError that names the first invalid one."""
        if self.kind not in KINDS:
            raise UserError(f"kind = {self.kind!r}: use one of {', '.join(KINDS)}")
        for name in ("max_new_tokens", "beams", "chunk"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise UserError(f"{name} = {value!r}: must be an integer of at least 1")
        for name in ("temperature", "top_k", "top_p", "length_penalty"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
                raise UserError(f"{name} = {value!r}: must be a finite number")
        if self.temperature <= 0:
            raise UserError(f"temperature = {self.temperature}: must be positive; for the most probable use kind='greedy'")
        if type(self.top_k) is not int or self.top_k < 0:
            raise UserError(f"top_k = {self.top_k!r}: must be an integer of at least 0; 0 keeps all tokens")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p = {self.top_p}: must be in (0, 1]; 1 keeps all tokens")
        return self
