"""The command line, as a user runs it."""

import pytest

from hyperseg_jax.commands.main import main


def run(capsys, *arguments):
    """(exit code, what was printed, errors)."""
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
        raise SystemExit(0)
    shown = capsys.readouterr()
    return ended.value.code, shown.out, shown.err
