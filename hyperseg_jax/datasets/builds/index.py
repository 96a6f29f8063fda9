"""Metadata of a build: build.json (its settings), a json file beside each shard, and index.json once all shards exist."""

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
from hyperseg_jax.untrusted.printing import escaped, escaped_value, one_line

FORMAT = 1
INDEX, SETTINGS = "index.json", "build.json"
FACTS = ("classes", "things", "category_ids")
"""Attributes of the source reader that are stored in the index, if it has them."""

MAX_EMPTY_RECORDS = 1000
"""A shard with more records than this must have at least one byte per record."""
SHARD_FIELDS: Mapping[str, type] = {"file": str, "records": int, "bytes": int, "sha256": str, "bad": list}
INDEX_FIELDS: Mapping[str, type] = {"records": int, "settings": dict, "clips": bool, "facts": dict, "shards": list}
"""The fields of each json file and their types."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """One finished shard. bad: (source record number, error message) of skipped records."""

    file: str
    records: int
    bytes: int
    sha256: str
    bad: tuple[tuple[int, str], ...] = ()

    def covers(self, numbers: range) -> bool:
        """Returns whether the shard can have been built from the source records with these numbers."""
        bad = {number for number, _ in self.bad if number in numbers}
        return len(bad) == len(self.bad) and self.records + len(bad) == len(numbers)


@dataclasses.dataclass(frozen=True)
class Index:
    """A finished build of one split. settings: its build settings. clips: whether its records are videos. facts: attributes of
    the source reader, see FACTS."""

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
    """Writes the settings of a new build. Raises UserError if the folder has a build with different settings."""
    existing = _read_json(store, SETTINGS)
    if existing is None:
        store.write_text(SETTINGS, json.dumps(settings, indent=1, sort_keys=True))
        existing = _read_json(store, SETTINGS)  # a concurrent run may have written it first
    if existing != settings:
        old = existing if isinstance(existing, dict) else {}
        names = [name for name in {**old, **settings} if old.get(name) != settings.get(name)]
        values = lambda name: f"{escaped_value(old.get(name))} saved, {escaped_value(settings.get(name))} given"
        changes = "; ".join(f"{escaped(name)} {values(name)}" for name in names)
        raise UserError(f"{store}: contains a build with other settings ({changes[:300]}); give another --out or remove it")


def write_shard_metadata(store: Store, shard: Shard, settings_hash: str) -> None:
    """Writes the json file that marks a shard as complete. settings_hash: see `hash_settings`."""
    store.write_text(f"{shard.file}.json", json.dumps({"settings": settings_hash, **dataclasses.asdict(shard)}))


def find_published_shard(store: Store, file: str, settings_hash: str, numbers: range) -> Shard | None:
    """Returns a published shard of the records `numbers` with these settings that matches its json file; None if it has to be
    built."""
    content = _read_json(store, f"{file}.json", damaged={})
    if not isinstance(content, dict) or content.pop("settings", None) != settings_hash:
        return None
    try:
        shard = parse_shard_metadata(content)
    except ValueError:
        return None
    return shard if shard.file == file and shard.covers(numbers) and store.size(file) == shard.bytes else None


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
    store.write_text(INDEX, json.dumps(content, indent=1))


def read_index(store: Store) -> Index:
    """Reads index.json. Raises UserError if it is missing, damaged, or of another version."""
    content = _read_json(store, INDEX)
    if content is None:
        why = "the build is not finished; run the same command to resume" if store.size(SETTINGS) else "contains no build"
        raise Problem("missing file", f"{store}: {why} (no {INDEX})")
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise Problem("bad record", f"{store}/{INDEX}: does not have format {FORMAT}; build again, or update hyperseg-jax")
    try:
        _check_field_types(content, INDEX_FIELDS, "it")
        _check_field_types(content["facts"], dict.fromkeys(content["facts"], list), "facts")
        shards = tuple(parse_shard_metadata(row, f"shards#{k}") for k, row in enumerate(content["shards"]))
        index = Index(content["settings"], shards, content["clips"], content["facts"])
        if index.records != content["records"] or not shards:
            raise ValueError("its counts are inconsistent")
    except ValueError as error:
        raise Problem("bad record", f"{store}/{INDEX}: is damaged ({error}); remove it and build again") from error
    limits.check_limit("records", index.records, f"{store}/{INDEX}", "records")
    for shard in shards:
        if shard.records > max(shard.bytes, MAX_EMPTY_RECORDS):
            why = f"{shard.file} cannot have {shard.records} records in {shard.bytes} bytes"
            raise Problem("bad record", f"{store}/{INDEX}: is damaged ({why}); remove it and build again")
    return index


def parse_shard_metadata(row: Any, what: str = "the shard") -> Shard:
    """Parses the metadata of a shard. what: description for messages. Raises ValueError if it is invalid."""
    _check_field_types(row, SHARD_FIELDS, what)
    bad = tuple(map(_parse_bad_record, row["bad"]))
    shard = Shard(row["file"], row["records"], row["bytes"], row["sha256"], bad)
    named = re.fullmatch(r"\d{5,}-of-\d{5,}\.array_record", shard.file, re.ASCII)
    if not named or not re.fullmatch(r"[0-9a-f]{64}", shard.sha256) or min(shard.records, shard.bytes) < 0:
        raise ValueError(f"{what} has an invalid name, checksum or size")
    return shard


def _parse_bad_record(row: Any) -> tuple[int, str]:
    match row:
        case [int(number), str(why)]:
            return number, one_line(why)
    raise ValueError(f"a bad record is {escaped_value(row)}, expected [number, message]")


def _check_field_types(row: Any, kinds: Mapping[str, type], what: str) -> None:
    """Raises ValueError if a field is missing or has the wrong type. what: description of the row for messages."""
    if not isinstance(row, dict):
        raise ValueError(f"{what} is {escaped_value(row)}, expected an object {{...}}")
    for name, kind in kinds.items():
        if name not in row:
            raise ValueError(f"{what} has no field {name!r}")
        if type(row[name]) is not kind:
            raise ValueError(f"{what} has {escaped_value(row[name])} in the field {name!r}")


def _read_json(store: Store, name: str, damaged: Any = None) -> Any:
    """Returns the content of a json file; None if it does not exist. damaged: returned for invalid json; None raises
    UserError."""
    text = store.read_text(name)
    if text is None:
        return None
    try:
        return json_text.parse_json(text.encode())
    except BadFile as error:
        if damaged is not None:
            return damaged
        raise Problem("bad record", f"{store}/{name}: {error.why}; remove it and build again") from error
