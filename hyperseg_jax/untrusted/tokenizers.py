"""Validates tokenizer files before the `tokenizers` library loads them: the library panics on some damaged files, and its time
and memory are not bounded.

Components must be of a known type and have known fields. None of them grows a text by more than a small factor, or takes more
than a few steps per character: replacements do not grow, sequences are short, and regular expressions are from an allowlist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from hyperseg_jax.untrusted.bad_file import BadFile
from hyperseg_jax.untrusted.printing import escaped, escaped_value

PUBLISHED = "give the tokenizer that the model was published with"
COMPONENTS = 32  # maximum components per role, including nested ones
TOKENS = 2**21
ADDED = 100_000
LETTERS = 1024  # maximum characters of a token
UNIGRAM_LETTERS = 256  # smaller, since Unigram tries tokens of all lengths at each character
AFFIX = 16  # maximum characters of a prefix or suffix that is added to parts of words
WORD = 1000  # maximum characters of a word in WordPiece, whose time is quadratic in them
ONCE = ("ByteLevel", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Lowercase", "BertNormalizer", "Prepend", "Metaspace")
"""Types that make a text longer; each is allowed once per role."""
_LETTER = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_ENDS, _SPACE = r"'s|'t|'re|'ve|'m|'ll|'d", r"\s*[\r\n]+|\s+(?!\S)|\s+"
REGEXES = frozenset(
    {
        r"\s+",
        r" {2,}",
        r"\n",
        r"[\r\n]",
        r"\d",
        r"[0-9]",
        r"[0-9][0-9][0-9]",
        r"\p{N}",
        r"\p{N}{1,3}",
        rf"{_ENDS}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+",  # GPT-2
        rf"{_ENDS}|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+",  # CLIP
        rf"<\|startoftext\|>|<\|endoftext\|>|{_ENDS}|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+",
        rf"(?i:{_ENDS})|{_LETTER}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACE}",  # Llama 3
        rf"(?i:{_ENDS})|{_LETTER}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACE}",  # Qwen 2
    }
)
"""The allowed regular expressions; others may take exponential time."""

Check = Callable[[Any], bool]


def _is_optional_flag(value: Any) -> bool:
    return value is None or type(value) is bool


def _text_check(maximum: int, minimum: int = 0) -> Check:
    """Returns a check for strings with `minimum` to `maximum` characters."""
    return lambda value: type(value) is str and minimum <= len(value) <= maximum


def _optional_check(check: Check) -> Check:
    """Returns a check that also accepts None."""
    return lambda value: value is None or check(value)


def _integer_check(maximum: int) -> Check:
    """Returns a check for integers from 0 to `maximum`."""
    return lambda value: type(value) is int and 0 <= value <= maximum


def _choice_check(*values: str) -> Check:
    """Returns a check for one of these strings."""
    return lambda value: type(value) is str and value in values


def _is_pattern(value: Any) -> bool:
    """Whether the value is {"String": any text} or {"Regex": an allowed regular expression}."""
    if type(value) is not dict or len(value) != 1:
        return False
    if "String" in value:
        return _text_check(LETTERS, 1)(value["String"])
    return type(value.get("Regex")) is str and value["Regex"] in REGEXES


def _is_token_and_id(value: Any) -> bool:
    return type(value) is list and len(value) == 2 and _text_check(LETTERS)(value[0]) and _integer_check(TOKENS)(value[1])


_CUT = {"behavior": _choice_check("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")}
_BYTES = {"add_prefix_space": _is_optional_flag, "trim_offsets": _is_optional_flag, "use_regex": _is_optional_flag}
_SPACES = {
    "replacement": _text_check(1, 1),
    "str_rep": _text_check(1, 1),
    "add_prefix_space": _is_optional_flag,
    "prepend_scheme": _choice_check("always", "never", "first"),
    "split": _is_optional_flag,
}
_REPLACE = {"pattern": _is_pattern, "content": _text_check(LETTERS)}
_BERT = {name: _is_optional_flag for name in ("clean_text", "handle_chinese_chars", "strip_accents", "lowercase")}
_ENDING = {"sep": _is_token_and_id, "cls": _is_token_and_id}
ROLES: Mapping[str, tuple[str, Mapping[str, Mapping[str, Check]]]] = {
    "normalizer": (
        "normalizers",
        {
            **{name: {} for name in ("NFC", "NFD", "NFKC", "NFKD", "Nmt", "Lowercase", "StripAccents", "ByteLevel")},
            "BertNormalizer": _BERT,
            "Strip": {"strip_left": _is_optional_flag, "strip_right": _is_optional_flag},
            "Prepend": {"prepend": _text_check(AFFIX, 1)},
            "Replace": _REPLACE,
        },
    ),
    "pre_tokenizer": (
        "pretokenizers",
        {
            **{name: {} for name in ("BertPreTokenizer", "Whitespace", "WhitespaceSplit", "UnicodeScripts")},
            "ByteLevel": _BYTES,
            "Metaspace": _SPACES,
            "CharDelimiterSplit": {"delimiter": _text_check(1, 1)},
            "Digits": {"individual_digits": _is_optional_flag},
            "Punctuation": _CUT,
            "Split": {"pattern": _is_pattern, "invert": _is_optional_flag, **_CUT},
        },
    ),
    "decoder": (
        "decoders",
        {
            "ByteFallback": {},
            "Fuse": {},
            "ByteLevel": _BYTES,
            "Metaspace": _SPACES,
            "BPEDecoder": {"suffix": _text_check(AFFIX)},
            "WordPiece": {"prefix": _text_check(AFFIX), "cleanup": _is_optional_flag},
            "Strip": {"content": _text_check(1, 1), "start": _integer_check(AFFIX), "stop": _integer_check(0)},
            "Replace": _REPLACE,
        },
    ),
    "post_processor": (
        "processors",
        {
            "ByteLevel": _BYTES,
            "BertProcessing": _ENDING,
            "RobertaProcessing": {**_ENDING, "trim_offsets": _is_optional_flag, "add_prefix_space": _is_optional_flag},
            "TemplateProcessing": {
                "single": lambda value: _is_template(value, "A"),
                "pair": lambda value: _is_template(value, "AB"),
                "special_tokens": lambda value: type(value) is dict and len(value) <= COMPONENTS,
            },
        },
    ),
}
"""{role: (field with the members of a Sequence, {type: {field: check}})}."""
_AFFIXES = {"continuing_subword_prefix": _optional_check(_text_check(AFFIX))}
MODELS: Mapping[str, Mapping[str, Check]] = {
    "BPE": {
        **_AFFIXES,
        "dropout": lambda value: value is None or (type(value) in (int, float) and value == 0),  # otherwise ids are random
        "unk_token": _optional_check(_text_check(LETTERS)),
        "end_of_word_suffix": _optional_check(_text_check(AFFIX)),
        "fuse_unk": _is_optional_flag,
        "byte_fallback": _is_optional_flag,
        "ignore_merges": _is_optional_flag,
        "merges": lambda value: type(value) is list and all(map(_is_merge, value)),
    },
    "WordPiece": {**_AFFIXES, "unk_token": _text_check(LETTERS, 1), "max_input_chars_per_word": _integer_check(WORD)},
    "WordLevel": {"unk_token": _text_check(LETTERS, 1)},
    "Unigram": {"unk_id": _optional_check(_integer_check(TOKENS)), "byte_fallback": _is_optional_flag},
}
_ADDED_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def validate_tokenizer(content: Mapping[str, Any]) -> dict[str, Any]:
    """Validates the content of a tokenizer.json and returns it for the library, without padding and truncation. Raises
    BadFile."""
    known = ("version", "truncation", "padding", "added_tokens", "model", *ROLES)
    if unknown := [name for name in content if name not in known]:
        raise BadFile(f"has an unknown field {escaped(unknown[0])}", PUBLISHED)
    for role in ROLES:
        if content.get(role) is not None:
            _check_component(role, content[role])
    model = content.get("model")
    if type(model) is not dict:
        raise BadFile("has no model")
    model = {"type": _model_type(model), **model}
    _check_fields(model, MODELS, "model", also=("type", "vocab"))
    collect_token_ids(content)
    if model["type"] == "BPE":
        check_merges(model.get("merges") or (), model["vocab"], model.get("continuing_subword_prefix") or "")
    return {**content, "model": model, "padding": None, "truncation": None}


def collect_token_ids(content: Mapping[str, Any]) -> dict[str, int]:
    """Returns {token: id} of a tokenizer.json, including added tokens. Raises BadFile if ids have duplicates or gaps."""
    model = content["model"]
    table = (
        _validate_unigrams(model) if _model_type(model) == "Unigram" else validate_vocabulary(model.get("vocab"), "model.vocab")
    )
    if _model_type(model) in ("WordPiece", "WordLevel") and model.get("unk_token") not in table:
        raise BadFile("its model has an unk_token that is not in its vocabulary")
    added = content.get("added_tokens")
    if added is None:
        added = []
    if type(added) is not list or len(added) > ADDED:
        raise BadFile(f"its added_tokens are not a list of at most {ADDED} tokens")
    by_id = {number: token for token, number in table.items()}
    rewritten = "Replace" in [part.get("type") for part in _list_components("normalizer", content.get("normalizer") or {})]
    for token in added:
        if (
            type(token) is not dict
            or not _text_check(LETTERS, 1)(token.get("content"))
            or not _integer_check(TOKENS)(token.get("id"))
            or not all(_is_optional_flag(token.get(name)) for name in _ADDED_FLAGS)
        ):
            raise BadFile("its added_tokens contain one without a valid content or id")
        text, number = token["content"], token["id"]
        if (token.get("lstrip") or token.get("rstrip")) and (text != text.strip() or (rewritten and token.get("normalized"))):
            raise BadFile(
                f"its added token {escaped(text)} strips surrounding spaces, and may itself consist of spaces", PUBLISHED
            )
        if table.setdefault(text, number) != number or by_id.setdefault(number, text) != text:
            raise BadFile(f"its added token {escaped(text)} has the id {number} of another token, or two ids")
    return check_dense_ids(table)


def validate_vocabulary(value: Any, what: str) -> dict[str, int]:
    """Validates a vocabulary and returns {token: id}. Raises BadFile."""
    if type(value) is not dict or len(value) > TOKENS:
        raise BadFile(f"{what} is not a JSON object with at most {TOKENS} tokens")
    for token, number in value.items():
        if len(token) > LETTERS or not _integer_check(TOKENS)(number):
            raise BadFile(f"{what} gives {escaped(token)} the id {escaped(str(number))}")
    return dict(value)


def check_dense_ids(table: dict[str, int]) -> dict[str, int]:
    """Returns the table unchanged. Raises BadFile unless it has each id from 0 exactly once; larger ids would be beyond the
    model's embeddings."""
    if sorted(table.values()) != list(range(len(table))):
        least = next(k for k, number in enumerate(sorted(table.values())) if k != number)
        raise BadFile(f"its {len(table)} tokens do not have the ids 0 to {len(table) - 1}, each once (look at {least})")
    return table


def check_tokenizer_config(fields: Mapping[str, Any]) -> None:
    """Checks the fields of tokenizer_config.json and special_tokens_map.json that are used: special tokens (a string or a token
    object), added_tokens_decoder ({id: token object}) and add_prefix_space. Raises BadFile."""
    for name, value in fields.items():
        if name == "added_tokens_decoder":
            if type(value) is not dict or len(value) > ADDED:
                raise BadFile(f"{name} is not a JSON object with at most {ADDED} tokens")
            for number, token in value.items():
                if not (number.isascii() and number.isdecimal() and len(number) <= 8 and _is_token(token)):
                    raise BadFile(f"{name} has {escaped(number)}, which is not a token with an id")
        elif not (
            _is_optional_flag(value)
            if name == "add_prefix_space"
            else value is None or _text_check(LETTERS)(value) or _is_token(value)
        ):
            raise BadFile(f"{name} is not a {'flag' if name == 'add_prefix_space' else 'token'}")


def _is_token(token: Any) -> bool:
    if type(token) is not dict or not _text_check(LETTERS, 1)(token.get("content")):
        return False
    return all(_is_optional_flag(token.get(name)) for name in _ADDED_FLAGS) and set(token) <= {
        "content",
        "id",
        "__type",
        *_ADDED_FLAGS,
    }


def _list_components(role: str, value: Any) -> Iterator[Any]:
    """Yields a component, and all components inside it if it is a Sequence."""
    stack = [value]
    while stack:
        component = stack.pop()
        yield component
        stack += _members(role, component) or ()


def _members(role: str, value: Any) -> list[Any] | None:
    """Returns the members of a Sequence; None for any other component."""
    name = ROLES[role][0]
    if type(value) is dict and value.get("type") == "Sequence" and set(value) == {"type", name} and type(value[name]) is list:
        return list(value[name])
    return None


def _check_component(role: str, value: Any) -> None:
    """Checks a component of the tokenizer, and all components inside it. role: such as "normalizer". Raises BadFile."""
    seen: list[str] = []
    for component in _list_components(role, value):
        if len(seen) == COMPONENTS:
            raise BadFile(f"its {role} has more than {COMPONENTS} parts", PUBLISHED)
        if _members(role, component) is None:
            _check_fields(component, ROLES[role][1], role, also=("type",))
            if component["type"] == "Replace":
                _check_replace(component, role)
        if component["type"] in ONCE and component["type"] in seen:
            raise BadFile(f"its {role} has {component['type']} twice", PUBLISHED)
        seen.append(component["type"])


def _check_fields(value: Any, types: Mapping[str, Mapping[str, Check]], role: str, also: tuple[str, ...]) -> None:
    """Raises BadFile unless a component has a known type, and only known fields with allowed values. types: {type: {field:
    check}}. role: such as "normalizer". also: names of fields that are not checked."""
    if type(value) is not dict or type(value.get("type")) is not str or value["type"] not in types:
        kind = escaped(str(value.get("type"))) if type(value) is dict else "not a component"
        raise BadFile(f"its {role} is {kind}; supported are {', '.join(types)}", PUBLISHED)
    fields = types[value["type"]]
    for name, field_value in value.items():
        if name in also:
            continue
        if name not in fields:
            raise BadFile(f"its {role} {value['type']} has an unknown field {escaped(name)}", PUBLISHED)
        if not fields[name](field_value):
            raise BadFile(
                f"its {role} {value['type']} has a {name} that is not allowed ({escaped_value(field_value)})", PUBLISHED
            )


def _check_replace(component: Mapping[str, Any], role: str) -> None:
    """Raises BadFile if a replacement is longer than its pattern, or may grow when it is normalized."""
    pattern, content = component.get("pattern"), component.get("content")
    if type(pattern) is not dict or type(content) is not str:
        raise BadFile(f"its {role} Replace has no pattern or content")
    if len(content) > len(pattern.get("String", "x")) or not content.replace("\u2581", " ").isascii():
        raise BadFile(
            f"its {role} replaces {escaped_value(next(iter(pattern.values())))} by the longer {escaped_value(content)}",
            PUBLISHED,
        )


def _model_type(model: Mapping[str, Any]) -> Any:
    """Returns the type of a model; it is inferred for files of early library versions, which do not contain it."""
    if "type" in model:
        return model["type"]
    if "merges" in model:
        return "BPE"
    if type(model.get("vocab")) is list:
        return "Unigram"
    return "WordPiece" if "continuing_subword_prefix" in model else "WordLevel"


def _is_merge(value: Any) -> bool:
    """Whether the value is a pair of tokens, as a list or as a text with one space."""
    parts = value.split(" ") if type(value) is str else value
    return type(parts) is list and len(parts) == 2 and all(map(_text_check(LETTERS), parts))


def check_merges(merges: Iterable[Any], table: Mapping[str, int], prefix: str = "") -> None:
    """Raises BadFile if the tokens of a merge, or its result, are not in the vocabulary. prefix: start of every second token,
    which is removed when they are merged."""
    for merge in merges:
        first, second = merge.split(" ") if type(merge) is str else merge
        if not second.startswith(prefix) or not {first, second, first + second[len(prefix) :]} <= table.keys():
            raise BadFile(f"its merge of {escaped(first)} and {escaped(second)} does not match its vocabulary", PUBLISHED)


def parse_merges(text: str) -> list[str]:
    """Parses a merges.txt. Raises BadFile for invalid lines."""
    merges = [line for line in text.split("\n") if line.strip() and not line.startswith("#version")]
    if invalid := [line for line in merges if not _is_merge(line)]:
        raise BadFile(f"the line {escaped(invalid[0])} is not a merge of two tokens", PUBLISHED)
    return merges


def _validate_unigrams(model: Mapping[str, Any]) -> dict[str, int]:
    """Validates the vocabulary of a Unigram model and returns {token: id}. Raises BadFile."""
    rows, unknown = model.get("vocab"), model.get("unk_id")
    if type(rows) is not list or len(rows) > TOKENS:
        raise BadFile(f"model.vocab is not a list of at most {TOKENS} tokens")
    for row in rows:
        if (
            type(row) is not list
            or len(row) != 2
            or not _text_check(UNIGRAM_LETTERS)(row[0])
            or type(row[1]) not in (int, float)
            or abs(row[1]) > 1e30
        ):
            raise BadFile("model.vocab has an entry that is not a token with a score")
    if type(unknown) is int and unknown >= len(rows):
        raise BadFile("its model has an unk_id that is not in its vocabulary")
    table = {row[0]: k for k, row in enumerate(rows)}
    if len(table) != len(rows):
        raise BadFile("model.vocab has a token twice")
    return table


def _is_template(value: Any, sequences: str) -> bool:
    """Whether the value is a list of special tokens and the text ("A"), exactly once; for `pair`, both texts ("AB")."""
    if type(value) is not list or len(value) > COMPONENTS:
        return False
    texts = ""
    for piece in value:
        if type(piece) is not dict or len(piece) != 1:
            return False
        kind, fields = next(iter(piece.items()))
        if type(fields) is not dict or set(fields) != {"id", "type_id"} or not _integer_check(2)(fields["type_id"]):
            return False
        if kind == "Sequence" and fields["id"] in ("A", "B"):
            texts += fields["id"]
        elif kind != "SpecialToken" or not _text_check(LETTERS)(fields["id"]):
            return False
    return texts == sequences
