"""Unreadable training records: counted over all hosts, listed in a file, and an error above a threshold."""

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
from hyperseg_jax.untrusted.bad_file import BadFile, failure_reason
from hyperseg_jax.untrusted.printing import one_line

ALWAYS_ALLOWED = 10
"""This many unreadable records never abort a run, even at its start."""
MAX_RECENT_SHARE = 0.5
"""A larger share of unreadable records since the last check aborts the run: the storage is probably gone."""
MAX_LISTED = 1000
"""Records in the file."""
MAX_BYTES, MAX_DIGITS = 2**24, 18
"""Limits for the size of the file and for the digits of a record number in it."""


class UnreadableRecords:
    """The unreadable records of one run. All hosts must make the same calls in the same order.

    errors: (global element index, reason) of this host; its stream appends to it. share: maximum share of unreadable records.
    batch_size: elements per step. workdir: holds the file that lists them. log: prints a line on the console. start, bad:
    steps of the run so far, and unreadable elements in them.
    """

    def __init__(
        self,
        errors: Sequence[tuple[int, str]],
        *,
        share: float,
        batch_size: int,
        workdir: Workdir,
        log: Callable[[str], None],
        start: int,
        bad: int,
    ) -> None:
        self._errors, self._share, self._batch_size, self._log = errors, share, batch_size, log
        self._workdir, self._path = workdir, workdir.local / UNREADABLE_RECORDS
        self._last_check, self._warned = (start, bad), bad > 0
        self._reasons = self._read_listed()

    def _read_listed(self) -> dict[int, str]:
        """Returns {global element index: reason} of the records that the file lists so far. The file is untrusted; an invalid
        one is moved aside."""
        if not os.path.lexists(self._path):
            return {}
        try:
            lines = paths.read_file(paths.check_link(self._path), MAX_BYTES).decode(errors="replace").splitlines()
        except (BadFile, OSError) as error:
            with contextlib.suppress(OSError):
                self._log(paths.move_aside(self._path, f"a list of unreadable records ({failure_reason(error)})"))
            return {}
        listed = [
            (index, why) for index, _, why in (line.partition("\t") for line in lines) if index.isascii() and index.isdigit()
        ]
        return {int(index): one_line(why) for index, why in listed[:MAX_LISTED] if len(index) <= MAX_DIGITS}

    def check(self, step: int, metrics: Mapping[str, float]) -> None:
        """Counts the unreadable records after this step, from its metrics. Logs the first ones, and raises UserError on all
        hosts if their share is too large."""
        bad, (last_step, last_bad) = int(metrics["bad"]), self._last_check
        self._last_check = step, bad
        if bad == last_bad:
            return
        total, recent = step * self._batch_size, (step - last_step) * self._batch_size
        allowed = max(ALWAYS_ALLOWED, self._share * total) if self._share else 0
        abort = bad > allowed or bad - last_bad > max(ALWAYS_ALLOWED, MAX_RECENT_SHARE * recent)
        if self._warned and not abort:
            return
        message = f"{bad} of {total} training records could not be read and are ignored; the first: {self.write()}"
        path = self._workdir.path / UNREADABLE_RECORDS
        if abort:
            raise UserError(
                f"{message}. All are listed in {path}: fix or remove them, or raise "
                f"data.max_unreadable_share, which is {self._share:g}"
            )
        self._log(f"{message}. Training continues; all are listed in {path}")
        self._warned = True

    def write(self) -> str:
        """Writes the unreadable records of all hosts to the file. Returns the reason of the first one, "" if there are none."""
        if not self._last_check[1]:
            return ""
        for text in hosts.exchange_long("bad records", json.dumps(list(self._errors)[:MAX_LISTED])):
            self._reasons |= {int(index): why for index, why in json.loads(text)}
        self._reasons = dict(sorted(self._reasons.items())[:MAX_LISTED])
        try:
            write_text(self._path, "".join(f"{index}\t{why}\n" for index, why in self._reasons.items()))
            self._workdir.push()
        except OSError as error:
            reason = error.strerror or error
            self._log(f"{self._path}: cannot be written ({reason}); training continues; free disk space or fix the folder")
        return next(iter(self._reasons.values()), "read by a host that no longer runs")
