"""The devices of a TPU slice, described by its compiler. Requires libtpu, but no TPU."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

from hyperseg_jax.errors import UserError

TRIED = (
    *("v4:2x2x1", "v4:2x2x4", "v5e:2x2", "v5e:4x4", "v5e:16x16", "v5p:2x2x1", "v5p:2x2x4", "v5p:4x4x8", "v6e:2x2", "v6e:4x4"),
    *("tpu7x:2x2x1", "tpu7x:2x2x2", "tpu7x:2x2x4", "tpu7x:2x4x4", "tpu7x:4x4x4", "tpu7x:4x4x8"),
)
# Without these, libtpu queries the cloud's metadata server about the machine.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",  # any value; the topology determines the devices
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # several processes may compile at once, since none uses a TPU
}


def slice_devices(topology: str) -> list[Any]:
    """Returns the devices of a slice, for compilation only; no computation can run on them. Sets environment variables that
    libtpu reads.

    topology: generation, then number of chips along each side ("v5e:4x4"). Raises UserError if libtpu is missing or does not
    know the slice.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(f"--topology {topology}: the TPU compiler is missing; pip install 'hyperseg-jax[tpu]'")
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    except Exception as error:  # libtpu raises many types
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"--topology {topology}: not known to libtpu ({reason}); give one such as {', '.join(TRIED)}"
        ) from error
