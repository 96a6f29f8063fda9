"""Startup barrier: each process sends its name to process 0, and all of them learn which processes are missing."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from typing import Any

from hyperseg_jax.errors import HostLost, UserError
from hyperseg_jax.untrusted.printing import escaped

MESSAGE_BYTES, SECONDS = 4096, 5.0
"""Maximum bytes of a message, for each process that it names, and seconds for sending one to process 0."""


def startup_barrier(address: str, process_id: int, processes: int, *, name: str, seconds: float) -> list[str]:
    """Waits for all processes. Returns their names, in the order of their ids.

    address: HOST:PORT of process 0; its port is used before JAX's coordination service starts there. name: name of this
    process. seconds: timeout. Raises HostLost, naming the missing processes, if not all arrive in time.
    """
    host, _, port = address.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()):
        raise UserError(f"--coordinator {address}: give HOST:PORT of process 0")
    deadline = time.monotonic() + seconds
    if process_id == 0:
        reply = _collect_names(int(port), processes, name, deadline)
    else:
        reply = _send_name(host, int(port), {"id": process_id, "name": name}, deadline, MESSAGE_BYTES * processes)
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
    """Runs on process 0: collects {process id: name} until all processes have connected or the deadline is over, and sends it
    to all of them."""
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
                message = _read_message(connection, min(deadline, time.monotonic() + SECONDS), MESSAGE_BYTES)
                if type(message["id"]) is int and 0 < message["id"] < processes:
                    names[str(message["id"])] = escaped(str(message["name"]))
                    connections.append(connection)
                    connection.settimeout(SECONDS)
            except (OSError, ValueError, KeyError):  # time is up, or the client is not a process of this run
                continue
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.sendall(json.dumps(names).encode() + b"\n")
    return names


def _send_name(host: str, port: int, message: dict[str, Any], deadline: float, most: int) -> dict[str, str]:
    """Runs on the other processes: connects to process 0, with retries until the deadline, sends the id and name of this
    process and returns {process id: name} of all processes, or only its own if process 0 does not answer. most: maximum bytes
    of the answer."""
    while (left := deadline - time.monotonic()) > 0:
        with (
            contextlib.suppress(OSError, ValueError),
            socket.create_connection((host, port), timeout=min(left, 10)) as connection,
        ):
            connection.sendall(json.dumps(message).encode() + b"\n")
            return _read_message(connection, deadline + 10, most)  # process 0 may have started to wait later
        time.sleep(0.2)
    return {str(message["id"]): message["name"]}


def _read_message(connection: socket.socket, deadline: float, most: int) -> dict[str, Any]:
    """Reads one line of JSON, of at most this many bytes. Raises OSError after the deadline, ValueError for anything else."""
    line = b""
    while not line.endswith(b"\n") and len(line) < most:
        if (left := deadline - time.monotonic()) <= 0:
            raise TimeoutError
        connection.settimeout(left)
        if not (data := connection.recv(most - len(line))):
            break
        line += data
    try:
        message = json.loads(line)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(message, dict):
        raise ValueError("not a message of the startup barrier")
    return message
