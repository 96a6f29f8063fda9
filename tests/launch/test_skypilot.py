"""launch/skypilot.py: the fields of the task, and the calls of sky."""

import pathlib

import pytest
import yaml

HERE = pathlib.Path(__file__).parent
CASES = {
    "skypilot_v5e-16": ["--type=v5e-16"],
    "skypilot_v6e-8_spot": ["--type=v6e-8", "--spot", "--infra=gcp/us-east5", "--name=adapters", "--mount=gs://datasets=/data"],
}
RUN = ("hyperseg_3b", "gs://bucket/runs/first", "--config.data.root=/data/a b")
# Fields and types of a SkyPilot task, from its published schema (sky/utils/schemas.py, 2026): all of the objects we write.
FIELDS = {
    "": {
        "name": str,
        "workdir": (str, dict),
        "event_callback": str,
        "num_nodes": int,
        "resources": dict,
        "file_mounts": dict,
        "file_mounts_mapping": dict,
        "service": dict,
        "pool": dict,
        "setup": str,
        "run": str,
        "envs": dict,
        "secrets": (dict, list),
        "managed_secrets": list,
        "inputs": dict,
        "outputs": dict,
        "config": dict,
        "volumes": dict,
        "volume_mounts": list,
        "api_server_access": bool,
    },
    "resources": {
        "cloud": str,
        "region": str,
        "zone": str,
        "infra": str,
        "cpus": (str, int),
        "memory": (str, int),
        "accelerators": (str, dict, list),
        "instance_type": str,
        "use_spot": bool,
        "job_recovery": (str, dict),
        "volumes": list,
        "disk_size": (str, int),
        "ephemeral_storage": (str, int),
        "disk_tier": str,
        "network_tier": str,
        "local_disk": str,
        "max_hourly_cost": float,
        "ports": (str, int, list),
        "labels": dict,
        "accelerator_args": dict,
        "image_id": (str, dict),
        "autostop": (bool, int, str, dict),
        "priority": int,
        "priority_class": str,
        "any_of": list,
        "ordered": list,
    },
    "resources.accelerator_args": {"runtime_version": str, "tpu_name": str, "tpu_vm": bool, "gcp_queued_resource": bool},
    "resources.job_recovery": {"strategy": str, "max_restarts_on_errors": int, "recover_on_exit_codes": (int, list)},
}
MOUNT = {
    "name": str,
    "source": (str, list),
    "store": str,
    "persistent": bool,
    "mode": str,
    "mount_options": str,
    "type": str,
    "config": dict,
}


def render(scripts, case):
    output = scripts.run("skypilot", *RUN, *CASES[case], "--dry-run")
    assert output.returncode == 0, output.stderr
    text, _, command = output.stdout.rpartition("sky jobs")
    return text, "sky jobs" + command.rstrip()


@pytest.mark.parametrize("case", CASES)
def test_task_equals_the_recorded_one(scripts, case):
    text = render(scripts, case)[0].replace(str(HERE.parents[1]), "CHECKOUT")
    assert text == (HERE / "golden" / f"{case}.yaml").read_text()


@pytest.mark.parametrize("case", CASES)
def test_every_field_is_published(scripts, case):
    task = yaml.safe_load(render(scripts, case)[0])
    for path, fields in FIELDS.items():
        inner = task
        for key in filter(None, path.split(".")):
            inner = inner[key]
        for key, value in inner.items():
            assert key in fields and isinstance(value, fields[key]), (path, key)
            assert type(value) is not bool or fields[key] in (bool, (bool, int, str, dict)), (path, key)
    for mount in task.get("file_mounts", {}).values():
        assert all(isinstance(value, MOUNT[key]) for key, value in mount.items())
        assert mount["mode"] in ("MOUNT", "COPY", "MOUNT_CACHED")
    assert task["resources"]["accelerators"] == {{"v5e": "tpu-v5litepod-16", "v6e": "tpu-v6e-8"}[case[9:12]]: 1}


def test_sky_gets_the_shown_task(scripts):
    scripts.program("sky", "log(' '.join(arguments)); (state / 'task').write_text(pathlib.Path(arguments[-1]).read_text())")
    for case, wait in (("skypilot_v5e-16", []), ("skypilot_v6e-8_spot", ["--wait"])):
        text, command = render(scripts, case)
        assert scripts.run("skypilot", *RUN, *CASES[case], *wait).returncode == 0
        assert (scripts.folder / "task").read_text() == text
        words = [word for word in command.split()[1:-1] if not (wait and word == "--detach-run")]
        assert scripts.calls()[-1].split()[:-1] == words
        assert words[:3] == ["jobs", "launch", "--yes"] and ("--detach-run" in words) == (not wait)


def test_errors_of_sky_are_passed_on(scripts):
    scripts.program("sky", "sys.exit(9)")
    assert scripts.run("skypilot", *RUN, *CASES["skypilot_v5e-16"]).returncode == 9
