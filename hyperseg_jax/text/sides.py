"""Texts about mirrored images: whether a text is known to be free of sides, or what it says after left and right are swapped.

The rule is safe rather than complete. A text is changed or kept only if its language is known: more than half of its words
are common English words, or more than a third are common words of German, Dutch, French, Spanish, Italian or Portuguese (with
the words for sides), or its letters are Chinese or Japanese. Each word that names a side must have a known opposite.
Everything else is unknown, and images with unknown texts are not mirrored.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence

from hyperseg_jax.text import known_words, side_words

CACHE_SIZE = 2**14
_WORD = re.compile(r"[^\W\d_]+")
_SIGNS = re.compile("|".join((*side_words.SYMMETRIC_SIGNS, *side_words.SIGNS)))
_STEM = re.compile("|".join(side_words.STEMS))
_ENDINGS = ("s", "es", "ed", "d", "ing", "er", "est", "ly", "y", "ish")
_SCRIPTS = ("LATIN", "CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "IDEOGRAPHIC", "FULLWIDTH")
_OF_SIDE = r"(?! (?:of|side|hand|most|corner|edge|half|end|part|arm|leg|foot|eye|ear|lower|upper|bottom|top)\b)"
_UNCLEAR = re.compile(
    r"(?<!the )(?<!far )(?<!bottom )(?<!top )(?<!upper )(?<!lower )"
    r"\bright (?:now|away|here|there|next|behind|beside|besides|in front|in the middle|in the center|in the centre|above|below|"
    r"under|underneath|over|before|after|at|by|on top|up|down|through|across|size|way|thing|answer)\b"
    r"|\bright (?:angles?|angled|triangles?)\b|\b(?:all|exactly|just) right\b|, right\b\W*$"
    r"|\b(?:that is|that s|thats|it is|it s|you are|you re|is that|is this|not|looks|seems|feels) right\b" + _OF_SIDE + r"|"
    r"\b(?:who|has|have|had|having|just|was|were|been|being|he|she|they|it|is|are|be|someone|people) left\b" + _OF_SIDE + r"|"
    r"\bleft (?:over|overs|alone|open|behind|unattended|out|off|turned|lying|standing|the|his|her|their|its|a|an)\b"
    r"|\b(?:nothing|anything|something|much|many|any) left\b" + _OF_SIDE + r"|"
    r"\bo clock\b|\b(?:driver|passenger|port)s? (?:s )?side\b|\bcounter clockwise\b|\banti clockwise\b|\btodo derecho\b"
)
"""Phrases of words for sides that may mean something else, in a text with one space for each mark."""
_ARROWS = ("ARROW", "BACKHAND INDEX")


def swap(texts: Sequence[str]) -> tuple[str, ...] | None:
    """Returns texts of one language, such as a class list, as they are true of the mirrored image. None: this is not known."""
    return _swap(tuple(texts))


@functools.lru_cache(maxsize=CACHE_SIZE)
def _swap(texts: tuple[str, ...]) -> tuple[str, ...] | None:
    plain = tuple(map(_normalized, texts))
    words = [word for text in plain for word in _words(text)]
    if not all(map(_is_known_letter, {letter for word in words for letter in word})):
        return None
    latin = [word.lower() for word in words if _is_latin(word[0])]
    english = 2 * sum(map(is_english, latin)) > len(latin)
    if latin and not english and 3 * sum(map(_is_of_others, latin)) <= len(latin):
        return None
    swapped: list[str] = []
    for text, was in zip(texts, plain, strict=True):
        new = _swap_one(was, english)
        if new is None or (new != was != text):  # in the second case, the word for a side is written in unusual signs
            return None
        swapped.append(text if new == was else new)
    return tuple(swapped)


def _swap_one(text: str, english: bool) -> str | None:
    """Returns a text in a known language after the swap; None if a side has no certain opposite."""
    if any(_is_arrow(letter) for letter in text if not letter.isascii()):
        return None
    spaced = " ".join(re.sub(r"[^\w,]+|_", " ", text.lower()).split())
    if english and _UNCLEAR.search(spaced.replace(" ,", ",")):
        return None
    pieces: list[str] = []
    end = 0
    for match in _WORD.finditer(text):
        for start, part in _split_scripts(match):
            new = _swap_word(part, english)
            if new is None:
                return None
            pieces += [text[end:start], new]
            end = start + len(part)
    return "".join((*pieces, text[end:]))


def _swap_word(word: str, english: bool) -> str | None:
    """Returns a word of the mirrored image; None if it may be a side without a certain opposite."""
    if not _is_latin(word[0]):
        return _SIGNS.sub(lambda match: side_words.SIGNS.get(match[0], match[0]), word)
    lower = word.lower()
    other = side_words.ENGLISH_OPPOSITES.get(lower, "" if english else side_words.OPPOSITES.get(lower, ""))
    if other:
        cases = {lower: other, word.upper(): other.upper(), lower.capitalize(): other.capitalize()}
        return cases.get(word)
    if english and (lower in known_words.ENGLISH or lower in side_words.HARMLESS):
        return word
    is_unclear = lower in side_words.OTHER_SIDES or (english and lower in side_words.UNCLEAR)
    return None if is_unclear or _STEM.search(lower) else word


def is_english(word: str) -> bool:
    """Whether a word in lower case is a common English word, also with an ending, or one of English words for sides."""
    known = known_words.ENGLISH
    if word in known or word in side_words.ENGLISH_OPPOSITES or word in side_words.HARMLESS:
        return True
    stems = [word.removesuffix(ending) for ending in _ENDINGS if word.endswith(ending) and len(word) - len(ending) > 2]
    return any(stem in known or f"{stem}e" in known or (stem[-1] == stem[-2] and stem[:-1] in known) for stem in stems)


def _is_of_others(word: str) -> bool:
    return word in known_words.OTHERS or word in side_words.OPPOSITES


def _normalized(text: str) -> str:
    """Returns a text without invisible signs, and with one form of each letter."""
    if text.isascii():
        return text
    return "".join(letter for letter in unicodedata.normalize("NFKC", text) if unicodedata.category(letter) != "Cf")


def _words(text: str) -> list[str]:
    return [part for match in _WORD.finditer(text) for _, part in _split_scripts(match)]


def _split_scripts(match: re.Match[str]) -> list[tuple[int, str]]:
    """Splits letters into those of the Latin script and others; (start, part) each."""
    parts: list[tuple[int, str]] = []
    for k, letter in enumerate(match[0], match.start()):
        if parts and _is_latin(parts[-1][1][0]) == _is_latin(letter):
            parts[-1] = parts[-1][0], parts[-1][1] + letter
        else:
            parts.append((k, letter))
    return parts


@functools.lru_cache(maxsize=CACHE_SIZE)
def _script(letter: str) -> str:
    return unicodedata.name(letter, "?").partition(" ")[0]


def _is_latin(letter: str) -> bool:
    return letter.isascii() or _script(letter) == "LATIN"


def _is_known_letter(letter: str) -> bool:
    return letter.isascii() or _script(letter) in _SCRIPTS


def _is_arrow(letter: str) -> bool:
    return any(kind in unicodedata.name(letter, "") for kind in _ARROWS)
