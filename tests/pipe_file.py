"""A pipe as a file that cannot seek."""

import contextlib
import os
import threading


@contextlib.contextmanager
def open_pipe(data):
    """Yields the reading end of a pipe, into which a thread writes the data."""
    out, into = os.pipe()

    def write_data():
        with os.fdopen(into, "wb") as file:
            file.write(data)

    thread = threading.Thread(target=write_data)
    thread.start()
    with os.fdopen(out, "rb") as file:
        yield file
    thread.join()
