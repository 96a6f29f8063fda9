"""What a build says of itself: build.json (its settings), a json beside each shard, and index.json once all are there."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from hyperseg_jax.datasets.builds.store import Store
from hyperseg_jax.datasets.check_errors import Problem
from hyperseg_jax.errors import UserError
from hyperseg_jax.untrusted import json_text, limits
from hyperseg_jax.untrusted.bad_file import BadFile
from hyperseg_jax.untrusted.printing import shown_value

FORMAT = 1
INDEX, SETTINGS = "index.json", "build.json"
FACTS = ("classes", "things", "category_ids")
"""What readers know of a whole benchmark, kept where they do."""


MAX_EMPTY_RECORDS = 1000
"""Records of a shard, each of which may be found missing; more must have bytes of their own."""
SHARD_FIELDS: Mapping[str, type] = {"file": str, "records": int, "bytes": int, "sha256": str, "bad": list}
INDEX_FIELDS: Mapping[str, type] = {"records": int, "settings": dict, "clips": bool, "facts": dict, "shards": list}
"""The fields of each json, and their kinds."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """One finished shard. bad: [number of the source's record, what is wrong with it] of those left out."""

    file: str
    records: int
    bytes: int
    sha256: str
    bad: tuple[tuple[int, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class Index:
    """A finished build of one split. settings: what it was built with. clips: whether its records are videos. facts: FACTS."""

    settings: Mapping[str, Any]
    shards: tuple[Shard, ...]
    clips: bool
    facts: Mapping[str, Any]

    @property
    def records(self) -> int:
        return sum(shard.records for shard in self.shards)

    @property
    def bytes(self) -> int:
        return sum(shard.bytes for shard in self.shards)

    @property
    def bad(self) -> list[tuple[int, str]]:
        return [row for shard in self.shards for row in shard.bad]


def shard_name(k: int, count: int) -> str:
    return f"{k:05d}-of-{count:05d}.array_record"


def hash_settings(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def check_settings(store: Store, settings: Mapping[str, Any]) -> None:
    """Writes the settings of a new build; UserError where those of the build that is there differ, which names them."""
    told = _parsed(store, SETTINGS)
    if told is None:
        store.write(SETTINGS, json.dumps(settings, indent=1, sort_keys=True))
        told = _parsed(store, SETTINGS)  # another run may have been quicker
    if told != settings:
        there = told if isinstance(told, dict) else {}
        differ = [name for name in {**there, **settings} if there.get(name) != settings.get(name)]
        other = "; ".join(f"{name} {there.get(name)!r} there, {settings.get(name)!r} now" for name in differ)
        raise UserError(f"{store}: holds a build of other settings ({other[:300]}); give another --out, or remove it")


def write_shard(store: Store, shard: Shard, settings_hash: str) -> None:
    """Says that a shard is whole. settings_hash: the fingerprint of the settings."""
    store.write(f"{shard.file}.json", json.dumps({"settings": settings_hash, **dataclasses.asdict(shard)}))


def read_shard(store: Store, file: str, settings_hash: str) -> Shard | None:
    """A shard that is there as its json says, of these settings; None where it is to be built."""
    content = _parsed(store, f"{file}.json", damaged={})
    if not isinstance(content, dict) or content.pop("settings", None) != settings_hash:
        return None
    try:
        shard = parsed_shard(content)
    except ValueError:
        return None
    return shard if shard.file == file and store.size(file) == shard.bytes else None


def write_index(store: Store, index: Index) -> None:
    content = {
        "format": FORMAT,
        "name": index.settings["name"],
        "split": index.settings["split"],
        "records": index.records,
        "settings": index.settings,
        "clips": index.clips,
        "facts": index.facts,
        "shards": [dataclasses.asdict(shard) for shard in index.shards],
    }
    store.write(INDEX, json.dumps(content, indent=1))


def read_index(store: Store) -> Index:
    """UserError where there is none, or where it is damaged or of another version."""
    content = _parsed(store, INDEX)
    if content is None:
        begun = "its build is not finished; the same command goes on" if store.size(SETTINGS) else "holds no build"
        raise Problem("missing file", f"{store}: {begun} (no {INDEX})")
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise Problem("bad record", f"{store}/{INDEX}: is not of format {FORMAT}; build again, or update hyperseg-jax")
    try:
        _check_kinds(content, INDEX_FIELDS, "it")
        _check_kinds(content["facts"], dict.fromkeys(content["facts"], list), "facts")
        shards = tuple(parsed_shard(row, f"shards#{k}") for k, row in enumerate(content["shards"]))
        index = Index(content["settings"], shards, content["clips"], content["facts"])
        if index.records != content["records"] or not shards:
            raise ValueError("its counts do not fit")
    except ValueError as error:
        raise Problem("bad record", f"{store}/{INDEX}: is damaged ({error}); remove it and build again") from error
    limits.check("records", index.records, f"{store}/{INDEX}", "records")
    for shard in shards:
        if shard.records > max(shard.bytes, MAX_EMPTY_RECORDS):
            why = f"{shard.file} cannot have {shard.records} records in {shard.bytes} bytes"
            raise Problem("bad record", f"{store}/{INDEX}: is damaged ({why}); remove it and build again")
    return index


def parsed_shard(row: Any, what: str = "the shard") -> Shard:
    """What a json says of a shard. what: it is called. ValueError where it is none."""
    _check_kinds(row, SHARD_FIELDS, what)
    bad = tuple(map(_left_out, row["bad"]))
    shard = Shard(row["file"], row["records"], row["bytes"], row["sha256"], bad)
    named = re.fullmatch(r"\d{5,}-of-\d{5,}\.array_record", shard.file, re.ASCII)
    if not named or not re.fullmatch(r"[0-9a-f]{64}", shard.sha256) or min(shard.records, shard.bytes) < 0:
        raise ValueError(f"{what} has no name, checksum or size of a shard")
    return shard


def _left_out(row: Any) -> tuple[int, str]:
    match row:
        case [int(number), str(why)]:
            return number, why
    raise ValueError(f"a bad record is {shown_value(row)}, which is no number with what is wrong")


def _check_kinds(row: Any, kinds: Mapping[str, type], what: str) -> None:
    """ValueError where a field is missing or of another kind. what: the row is called."""
    if not isinstance(row, dict):
        raise ValueError(f"{what} is {shown_value(row)} where a table {{...}} belongs")
    for name, kind in kinds.items():
        if name not in row:
            raise ValueError(f"{what} has no field {name!r}")
        if type(row[name]) is not kind:
            raise ValueError(f"{what} has {shown_value(row[name])} in the field {name!r}")


def _parsed(store: Store, name: str, damaged: Any = None) -> Any:
    """The content of a json file; None where there is none. damaged: given for one that is no json, else a UserError."""
    text = store.text(name)
    if text is None:
        return None
    try:
        return json_text.parse(text.encode())
    except BadFile as error:
        if damaged is not None:
            return damaged
        raise Problem("bad record", f"{store}/{name}: {error.why}; remove it and build again") from error
