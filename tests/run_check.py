"""`hyperseg train --check` in this process."""

import io

from rich.console import Console

from hyperseg_jax.planning import check


def run_check(config, **options):
    """Returns the report of a check. Raises UserError listing the problems, if there are any."""
    console = Console(file=io.StringIO(), width=300)
    check.check_run(config, console=console, **options)
    return console.file.getvalue()
