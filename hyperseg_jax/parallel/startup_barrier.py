"""Who is there before a run begins: each process tells the first one its name, and all learn who is missing."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from typing import Any

from hyperseg_jax.errors import HostLost, UserError

LINE = 65536  # bytes: of all names in one answer


def startup_barrier(address: str, process_id: int, processes: int, *, name: str, seconds: float) -> list[str]:
    """The names of all processes, in the order of their ids. Held on the coordinator's own port, before its service opens it.

    address: HOST:PORT of process 0. seconds: how long to wait for the last one. HostLost names the missing ones.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--coordinator {address}: give HOST:PORT of process 0")
    deadline = time.monotonic() + seconds
    if process_id == 0:
        answer = _hold(int(port), processes, name, deadline)
    else:
        answer = _answer(host, int(port), {"id": process_id, "name": name}, deadline)
    here = {int(key): str(value) for key, value in answer.items()}
    missing = [k for k in range(processes) if k not in here]
    if missing:
        there = ", ".join(f"{k} ({here[k]})" for k in sorted(here))
        raise HostLost(
            f"after {seconds:g} s, process {', '.join(map(str, missing))} of {processes} has not come to the "
            f"start; there are {there}; look at the missing hosts' logs, or raise hosts.start"
        )
    return [here[k] for k in range(processes)]


def _hold(port: int, processes: int, name: str, deadline: float) -> dict[str, str]:
    """Process 0: collects names until all have come or time is up, and tells everyone."""
    here, callers = {"0": name}, []
    try:
        dual = socket.has_dualstack_ipv6()
        listener = socket.create_server(
            ("", port), family=socket.AF_INET6 if dual else socket.AF_INET, backlog=processes, dualstack_ipv6=dual
        )
    except OSError as error:
        raise UserError(f"--coordinator: port {port} cannot be opened here ({error.strerror}); give a free one") from error
    with contextlib.ExitStack() as stack:
        stack.enter_context(listener)
        while len(here) < processes and (left := deadline - time.monotonic()) > 0:
            listener.settimeout(left)
            try:
                caller = stack.enter_context(listener.accept()[0])
                caller.settimeout(5)
                said = _read(caller)
                if 0 < int(said["id"]) < processes:
                    here[str(int(said["id"]))] = str(said["name"])[:200]
                    callers.append(caller)
            except (OSError, ValueError, KeyError, TypeError):  # time is up, or it was none of ours
                continue
        for caller in callers:
            with contextlib.suppress(OSError):
                caller.sendall(json.dumps(here).encode() + b"\n")
    return here


def _answer(host: str, port: int, said: dict[str, Any], deadline: float) -> dict[str, str]:
    """Another process: calls until process 0 hears it, and waits for what it tells."""
    while (left := deadline - time.monotonic()) > 0:
        with (
            contextlib.suppress(OSError, ValueError),
            socket.create_connection((host, port), timeout=min(left, 10)) as connection,
        ):
            connection.settimeout(left + 10)  # process 0 may have begun to wait later
            connection.sendall(json.dumps(said).encode() + b"\n")
            return _read(connection)
        time.sleep(0.2)
    return {str(said["id"]): said["name"]}


def _read(connection: socket.socket) -> dict[str, Any]:
    with connection.makefile("rb") as lines:
        found = json.loads(lines.readline(LINE))
    if not isinstance(found, dict):
        raise ValueError("not a line of the roll call")
    return found
