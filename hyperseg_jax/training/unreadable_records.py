"""What of the training data cannot be read: counted over all hosts, named, and in the end too much."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping, Sequence

from hyperseg_jax.atomic import write_text
from hyperseg_jax.errors import UserError
from hyperseg_jax.parallel import hosts
from hyperseg_jax.training.workdir import UNREADABLE_RECORDS, Workdir
from hyperseg_jax.untrusted import paths
from hyperseg_jax.untrusted.bad_file import BadFile, reason
from hyperseg_jax.untrusted.printing import one_line

FEW = 10
"""So many end no run, be they the first that it reads."""
GONE = 0.5
"""More than this share of what came since the last look ends it as well: a disk is no longer there."""
NAMED = 1000
LARGEST, DIGITS = 2**24, 18
"""Bytes of the file, and of the number of an element."""


class UnreadableRecords:
    """The account of one run. All hosts make the same calls in the same order.

    faults: (global element, why) of this host, to which its stream adds. share: how much of the data may be bad. batch_size:
    elements a step. workdir: where the file with their names lies. say: tells a line on the console. start, bad: the steps
    of the run so far, and the bad elements in them.
    """

    def __init__(
        self,
        faults: Sequence[tuple[int, str]],
        *,
        share: float,
        batch_size: int,
        workdir: Workdir,
        say: Callable[[str], None],
        start: int,
        bad: int,
    ) -> None:
        self._faults, self._share, self._batch_size, self._say = faults, share, batch_size, say
        self._workdir, self._path = workdir, workdir.local / UNREADABLE_RECORDS
        self._seen, self._told = (start, bad), bad > 0
        self._names = self._read()

    def _read(self) -> dict[int, str]:
        """What the run has named so far. The file is not trusted; what is no such list is put aside."""
        if not os.path.lexists(self._path):
            return {}
        try:
            lines = paths.read_file(paths.own(self._path), LARGEST).decode(errors="replace").splitlines()
        except (BadFile, OSError) as error:
            with contextlib.suppress(OSError):
                self._say(
                    f"{paths.rename_damaged(self._path)}: was no list of bad records ({reason(error)}); a new one is begun"
                )
            return {}
        named = [(at, why) for at, _, why in (line.partition("\t") for line in lines) if at.isascii() and at.isdigit()]
        return {int(at): one_line(why) for at, why in named[:NAMED] if len(at) <= DIGITS}

    def look(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes the metrics of a step. UserError, on all hosts, where too much could not be read."""
        bad, (before, known) = int(metrics["bad"]), self._seen
        self._seen = step, bad
        if bad == known:
            return
        taken, fresh = step * self._batch_size, (step - before) * self._batch_size
        allowed = max(FEW, self._share * taken) if self._share else 0
        ends = bad > allowed or bad - known > max(FEW, GONE * fresh)
        if self._told and not ends:
            return
        told = f"{bad} of {taken} training records could not be read and count for nothing; the first: {self.write()}"
        where = self._workdir.home / UNREADABLE_RECORDS
        if ends:
            raise UserError(
                f"{told}. All are named in {where}: mend or remove them, or raise "
                f"data.max_unreadable_share, which is {self._share:g}"
            )
        self._say(f"{told}. Training goes on; all are named in {where}")
        self._told = True

    def write(self) -> str:
        """Brings the file up to what all hosts know, and returns the first of the names; nothing where all could be read."""
        if not self._seen[1]:
            return ""
        for told in hosts.exchange_long("bad records", json.dumps(list(self._faults)[:NAMED])):
            self._names |= {int(at): why for at, why in json.loads(told)}
        self._names = dict(sorted(self._names.items())[:NAMED])
        try:
            write_text(self._path, "".join(f"{at}\t{why}\n" for at, why in self._names.items()))
            self._workdir.push()
        except OSError as error:
            self._say(f"{self._path}: cannot be written ({error.strerror or error}); training goes on")
        return next(iter(self._names.values()), "of a host that is gone")
