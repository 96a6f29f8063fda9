"""launch/gke.py: the rendered JobSet against recorded text and the published API, and the commands for the cluster."""

import copy
import importlib.util
import pathlib
import re

import pytest
import yaml

HERE = pathlib.Path(__file__).parent
CASES = {
    "gke_v5e-16": ["--type=v5e-16", "--image=europe-docker.pkg.dev/project/images/hyperseg:1", "--name=lora"],
    "gke_v6e-8": ["--type=v6e-8", "--image=hyperseg", "--name=one-host", "--namespace=vision", "--restarts=0"],
    "gke_tpu7x-16": ["--type=tpu7x-16", "--image=hyperseg:1", "--name=ironwood"],
    "gke_v5p-128_2_spot": [
        "--type=v5p-128",
        "--image=hyperseg:1",
        "--slices=2",
        "--spot",
        "--name=full",
        "--service-account=trainer",
        "--mount=gs://datasets=/data",
        "--mount=gs://weights=/weights",
    ],
}
RUN = ("hyperseg_3b", "gs://bucket/runs/first", "--config.train.steps=5", "--config.data.root=/data/a b")
KUBECTL = """
log(" ".join(arguments))
if "get" in arguments:
    left = (state / "answers").read_text().split("\\n")
    (state / "answers").write_text("\\n".join(left[1:]))
    if left[0] == "error": sys.exit("no such cluster")
    sys.stdout.write(left[0])
if "apply" in arguments: (state / "applied").write_text(sys.stdin.read())
"""


def load_fields():
    spec = importlib.util.spec_from_file_location("kubernetes_fields", HERE / "kubernetes_fields.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def render(scripts, case):
    output = scripts.run("gke", *RUN, *CASES[case], "--dry-run")
    assert output.returncode == 0, output.stderr
    text, _, command = output.stdout.rpartition("kubectl ")
    return text, command


@pytest.mark.parametrize("case", CASES)
def test_manifest_equals_the_recorded_one(scripts, case):
    assert render(scripts, case)[0] == (HERE / "golden" / f"{case}.yaml").read_text()


@pytest.mark.parametrize("case", CASES)
def test_every_field_is_in_the_published_api(scripts, case):
    manifest = yaml.safe_load(render(scripts, case)[0])
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert load_fields().list_errors(manifest, "JobSet", "") == []


@pytest.mark.parametrize("slices", [1, 2])
def test_only_several_slices_use_the_network_of_the_hosts(scripts, slices):
    """There, Workload Identity does not work: the storage driver is told to use the account of the pod, and processes have that
    of the node pool."""
    output = scripts.run(
        "gke",
        *RUN,
        "--type=v5e-16",
        "--image=i",
        f"--slices={slices}",
        "--mount=gs://data=/data",
        "--dry-run",
        "--service-account=t",
    ).stdout
    manifest = yaml.safe_load(output.rpartition("kubectl ")[0])
    pod = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    attributes = next(volume["csi"]["volumeAttributes"] for volume in pod["volumes"] if "csi" in volume)
    assert [pod.get("hostNetwork"), attributes.get("hostNetworkPodKSA")] == ([True, "true"] if slices > 1 else [None, None])
    assert ("dnsPolicy" in pod) == (slices > 1)
    for flag in ("--service-account=SERVICE_ACCOUNT", "--scopes=cloud-platform", "--workload-metadata=GKE_METADATA"):
        assert flag in output.splitlines()[0]


def test_invalid_manifests_are_detected(scripts):
    manifest = yaml.safe_load(render(scripts, "gke_v5p-128_2_spot")[0])
    pod = ("spec", "replicatedJobs", 0, "template", "spec", "template", "spec")
    for path, value, output in [
        (("spec", "failurePolicy", "maxRestart"), 3, ".spec.failurePolicy.maxRestart: unknown"),
        (("spec", "replicatedJobs", 0, "replicas"), "2", "is no integer"),
        (("spec", "failurePolicy", "restartStrategy"), "Blocking", "is none of"),
        (("spec", "failurePolicy", "rules", 0, "name"), None, ".rules[0].name: missing"),
        ((*pod, "nodeSelector", "cloud.google.com/gke-spot"), True, "is no string"),
        ((*pod, "hostNetwork"), "true", "is no boolean"),
        ((*pod, "containers", 0, "ports", 1, "port"), 80, "ports[1].port: unknown"),
        ((*pod, "containers"), {}, "not a list"),
    ]:
        broken = copy.deepcopy(manifest)
        inner = broken
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        if value is None:
            del inner[path[-1]]
        result = load_fields().list_errors(broken, "JobSet", "")
        assert len(result) == 1 and output in result[0], (path, result)


def test_names_and_formats(scripts):
    """API rules beyond types: matching names, formats, and the requirements of the failure policy."""
    for case in CASES:
        manifest = yaml.safe_load(render(scripts, case)[0])
        rule = manifest["spec"]["failurePolicy"]["rules"][0]
        assert re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"])
        assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
        (replicated,) = manifest["spec"]["replicatedJobs"]
        job = replicated["template"]["spec"]
        pod = job["template"]["spec"]
        (container,) = pod["containers"]
        assert pod["restartPolicy"] == "Never"  # podFailurePolicy needs it
        assert job["parallelism"] == job["completions"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
        sides = [int(side) for side in topology.split("x")]
        chips = container["resources"]["limits"]["google.com/tpu"] * job["completions"]
        assert chips == {2: lambda a, b: a * b, 3: lambda a, b, c: a * b * c}[len(sides)](*sides)
        longest = f"{manifest['metadata']['name']}-{replicated['name']}-{replicated['replicas'] - 1}-{job['completions'] - 1}"
        assert len(longest) <= 63


def test_the_node_pool_fits_the_slice(scripts, split_commands):
    text, _ = render(scripts, "gke_v5p-128_2_spot")
    (command,) = split_commands(text.splitlines()[0].removeprefix("# a node pool for each slice: "))
    assert command[:5] == ["gcloud", "container", "node-pools", "create", "v5p-128-0"]
    assert {"--machine-type=ct5p-hightpu-4t", "--tpu-topology=4x4x4", "--num-nodes=16", "--spot"} <= set(command)


def test_slices_of_ironwood_share_a_policy(scripts, split_commands):
    """Creating it again for the second slice would fail."""
    arguments = [*CASES["gke_v5e-16"], "--type=tpu7x-32", "--slices=2", "--dry-run"]
    once, pool, *_ = scripts.run("gke", *RUN, *arguments).stdout.splitlines()
    (policy,) = split_commands(once.removeprefix("# once: "))
    assert policy[:5] == ["gcloud", "compute", "resource-policies", "create", "workload-policy"]
    (command,) = split_commands(pool.removeprefix("# a node pool for each slice: "))
    assert f"--placement-policy={policy[5]}" in command and not any("tpu-topology" in option for option in command)


def start(scripts, answers, *arguments):
    scripts.program("kubectl", KUBECTL)
    (scripts.folder / "answers").write_text("\n".join(answers))
    return scripts.run("gke", *RUN, *CASES["gke_v5e-16"], *arguments)


def test_the_shown_manifest_is_applied(scripts):
    text, command = render(scripts, "gke_v5e-16")
    assert start(scripts, [""]).returncode == 0
    assert (scripts.folder / "applied").read_text() == text.partition("\n")[2]
    assert scripts.calls()[1:] == [command.strip()] == ["--namespace=default apply --filename=-"]


def test_a_check_is_a_job_of_its_own_that_is_not_restarted(scripts):
    """The run may be active under its own name. The name has the suffix once, also if it had to be cut."""
    for name, checked in (("lora", "lora-check"), ("a" * 40, "a" * 34 + "-check")):
        text = scripts.run("gke", *RUN, *CASES["gke_v5e-16"], f"--name={name}", "--check", "--restarts=7", "--dry-run").stdout
        manifest = yaml.safe_load(text.rpartition("kubectl ")[0])
        assert manifest["metadata"]["name"] == checked and manifest["spec"]["failurePolicy"]["maxRestarts"] == 0


def test_buckets_on_several_slices_need_an_account(scripts):
    """Workload Identity does not work in the network of the hosts."""
    arguments = [*CASES["gke_v5e-16"], "--slices=2", "--mount=gs://data=/data", "--dry-run"]
    output = scripts.run("gke", *RUN, *arguments)
    assert output.returncode == 2 and output.stderr.count("\n") == 1
    assert "give the Kubernetes account that may read the bucket with --service-account" in output.stderr
    for accepted in ([*arguments, "--service-account=t"], [text for text in arguments if "slices" not in text]):
        assert scripts.run("gke", *RUN, *accepted).returncode == 0


def test_ended_runs_are_restarted(scripts):
    assert start(scripts, ["Failed"]).returncode == 0
    assert scripts.calls()[1:] == ["--namespace=default delete jobset lora", "--namespace=default apply --filename=-"]


@pytest.mark.parametrize(("answers", "status"), [(["", "", "", "Completed"], 0), (["", "Failed"], 1)])
def test_waiting_returns_the_status_of_the_run(scripts, answers, status):
    output = start(scripts, answers, "--wait", "--poll=0")
    assert output.returncode == status and answers[-1] in output.stdout
    assert sum(" get jobset lora " in call for call in scripts.calls()) == len(answers)


def test_unreachable_clusters_are_one_line(scripts):
    output = start(scripts, ["error"])
    assert output.returncode == 2 and "no such cluster" in output.stderr and len(output.stderr.splitlines()) == 1
    assert not (scripts.folder / "applied").exists()


def expanded(text):
    """What Kubernetes makes of a command whose container has no variables of such names: $$ is $, $(NAME) stays."""
    return re.sub(r"\$(\$|\([^)]*\))", lambda result: "$" if result[1] == "$" else f"<{result[1]}>", text)


@pytest.mark.parametrize("value", ["a$$b", "$(HOME)", "$$(HOME)", "a$", "$$$", "a$b${c}", "$$$$("])
def test_dollars_come_as_they_were_given(scripts, split_commands, value):
    output = scripts.run("gke", *RUN, *CASES["gke_v5e-16"], f"--config.x={value}", "--dry-run")
    manifest = yaml.safe_load(output.stdout.rpartition("kubectl ")[0])
    pod = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    (line,) = [line for line in expanded(pod["containers"][0]["command"][-1]).splitlines() if "hyperseg_jax.train" in line]
    assert split_commands(line)[0][-2] == f"--config.x={value}"
