"""The table of TPU slices, compared with Google's documentation."""

import pytest

PUBLISHED = [  # name, topology, VMs, chips a VM, gcloud's accelerator type, GKE's machine type and accelerator label
    ("v4-8", "2x2x1", 1, 4, "v4-8", "ct4p-hightpu-4t", "tpu-v4-podslice"),
    ("v4-512", "4x8x8", 64, 4, "v4-512", "ct4p-hightpu-4t", "tpu-v4-podslice"),
    ("v4-4096", "8x16x16", 512, 4, "v4-4096", "ct4p-hightpu-4t", "tpu-v4-podslice"),
    ("v5e-1", "1x1", 1, 1, "v5litepod-1", "ct5lp-hightpu-1t", "tpu-v5-lite-podslice"),
    ("v5e-8", "2x4", 1, 8, "v5litepod-8", "ct5lp-hightpu-8t", "tpu-v5-lite-podslice"),
    ("v5e-16", "4x4", 4, 4, "v5litepod-16", "ct5lp-hightpu-4t", "tpu-v5-lite-podslice"),
    ("v5e-64", "8x8", 16, 4, "v5litepod-64", "ct5lp-hightpu-4t", "tpu-v5-lite-podslice"),
    ("v5e-256", "16x16", 64, 4, "v5litepod-256", "ct5lp-hightpu-4t", "tpu-v5-lite-podslice"),
    ("v5p-8", "2x2x1", 1, 4, "v5p-8", "ct5p-hightpu-4t", "tpu-v5p-slice"),
    ("v5p-128", "4x4x4", 16, 4, "v5p-128", "ct5p-hightpu-4t", "tpu-v5p-slice"),
    ("v5p-256", "4x4x8", 32, 4, "v5p-256", "ct5p-hightpu-4t", "tpu-v5p-slice"),
    ("v6e-4", "2x2", 1, 4, "v6e-4", "ct6e-standard-4t", "tpu-v6e-slice"),
    ("v6e-8", "2x4", 1, 8, "v6e-8", "ct6e-standard-8t", "tpu-v6e-slice"),
    ("v6e-256", "16x16", 64, 4, "v6e-256", "ct6e-standard-4t", "tpu-v6e-slice"),
    ("tpu7x-8", "2x2x1", 1, 4, "", "tpu7x-standard-4t", "tpu7x"),
    ("tpu7x-128", "4x4x4", 16, 4, "", "tpu7x-standard-4t", "tpu7x"),
    ("tpu7x-256", "4x4x8", 32, 4, "", "tpu7x-standard-4t", "tpu7x"),
]


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row[0])
def test_slices_equal_the_published_ones(launch_modules, row):
    import slices

    result = slices.find_slice(row[0], gke=True)
    assert (result.name, result.topology, result.hosts, result.chips, result.accelerator, result.machine, result.label) == row


def test_every_slice_is_named_by_its_size(launch_modules):
    import slices

    for name, result in slices.SLICES.items():
        cores = 2 if name.startswith(("v4", "v5p", "tpu7x")) else 1
        assert int(name.split("-")[1]) == result.hosts * result.chips * cores
        assert result.hosts == 1 or result.chips == 4
    assert {result.image for result in slices.SLICES.values()} == {
        "tpu-ubuntu2204-base",
        "v2-alpha-tpuv5-lite",
        "v2-alpha-tpuv5",
        "v2-alpha-tpuv6e",
        "",
    }


@pytest.mark.parametrize("script", ["tpu_vm", "skypilot", "ray_tpu"])
def test_ironwood_is_on_gke_only(scripts, script):
    options = {"tpu_vm": ["--zone=us-central1-a"], "skypilot": [], "ray_tpu": []}[script]
    output = scripts.run(script, "tiny", "gs://bucket/run", "--type=tpu7x-16", *options, "--dry-run")
    assert output.returncode == 2 and "--type tpu7x-16: only GKE has these slices; use launch/gke.py" in output.stderr
