"""Runs the command line in tests."""

import pytest

from hyperseg_jax.commands.main import main


def run_command(capsys, *arguments):
    """Runs a command; returns (exit code, standard output, standard error)."""
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
        raise SystemExit(0)
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err
