"""Startup barrier: each process sends its name to process 0, and all of them learn which processes are missing."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from typing import Any

from hyperseg_jax.errors import HostLost, UserError

MAX_REPLY_BYTES = 65536  # of all names in one line


def startup_barrier(address: str, process_id: int, processes: int, *, name: str, seconds: float) -> list[str]:
    """Returns the names of all processes, in the order of their ids. Uses the port of the coordination service before it
    starts.

    address: HOST:PORT of process 0. seconds: timeout for all processes. Raises HostLost, naming the missing ones.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--coordinator {address}: give HOST:PORT of process 0")
    deadline = time.monotonic() + seconds
    if process_id == 0:
        reply = _collect_names(int(port), processes, name, deadline)
    else:
        reply = _send_name(host, int(port), {"id": process_id, "name": name}, deadline)
    names = {int(key): str(value) for key, value in reply.items()}
    missing = [k for k in range(processes) if k not in names]
    if missing:
        present = ", ".join(f"{k} ({names[k]})" for k in sorted(names))
        raise HostLost(
            f"after {seconds:g} s, process {', '.join(map(str, missing))} of {processes} did not reach the "
            f"start; present: {present}; check the logs of the missing hosts, or raise hosts.start"
        )
    return [names[k] for k in range(processes)]


def _collect_names(port: int, processes: int, name: str, deadline: float) -> dict[str, str]:
    """Runs on process 0: collects names until all processes have connected or time is up, and sends them to all."""
    names, connections = {"0": name}, []
    try:
        dual = socket.has_dualstack_ipv6()
        listener = socket.create_server(
            ("", port), family=socket.AF_INET6 if dual else socket.AF_INET, backlog=processes, dualstack_ipv6=dual
        )
    except OSError as error:
        raise UserError(f"--coordinator: port {port} cannot be opened ({error.strerror}); use a free port") from error
    with contextlib.ExitStack() as stack:
        stack.enter_context(listener)
        while len(names) < processes and (left := deadline - time.monotonic()) > 0:
            listener.settimeout(left)
            try:
                connection = stack.enter_context(listener.accept()[0])
                connection.settimeout(5)
                message = _read(connection)
                if 0 < int(message["id"]) < processes:
                    names[str(int(message["id"]))] = str(message["name"])[:200]
                    connections.append(connection)
            except (OSError, ValueError, KeyError, TypeError):  # time is up, or the client is not a process of this run
                continue
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.sendall(json.dumps(names).encode() + b"\n")
    return names


def _send_name(host: str, port: int, message: dict[str, Any], deadline: float) -> dict[str, str]:
    """Runs on other processes: connects to process 0, with retries, sends the name and waits for the names of all."""
    while (left := deadline - time.monotonic()) > 0:
        with (
            contextlib.suppress(OSError, ValueError),
            socket.create_connection((host, port), timeout=min(left, 10)) as connection,
        ):
            connection.settimeout(left + 10)  # process 0 may have started to wait later
            connection.sendall(json.dumps(message).encode() + b"\n")
            return _read(connection)
        time.sleep(0.2)
    return {str(message["id"]): message["name"]}


def _read(connection: socket.socket) -> dict[str, Any]:
    with connection.makefile("rb") as lines:
        message = json.loads(lines.readline(MAX_REPLY_BYTES))
    if not isinstance(message, dict):
        raise ValueError("not a message of the startup barrier")
    return message
