"""Trains on TPU slices of a GKE cluster: renders a JobSet and applies it with kubectl.

  python launch/gke.py CONFIG gs://BUCKET/RUN --type v5e-16 --image IMAGE [--slices N] [--spot] [--config.x.y=value ...]

The cluster has the JobSet controller and a node pool for each slice; --dry-run shows how to make one. IMAGE has this package
installed, with its extras tpu and cloud, in the folder that holds configs/. A preempted or evicted host restarts all hosts, as
often as it happens, and the run goes on from WORKDIR; other failures restart them --restarts times.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import time
from collections.abc import Sequence
from typing import Any

import common
import slices


def manifest(parsed: argparse.Namespace) -> dict[str, Any]:
    """The JobSet: one job a slice, one pod a host."""
    piece = slices.get(parsed.type)
    selector = {"cloud.google.com/gke-tpu-accelerator": piece.label, "cloud.google.com/gke-tpu-topology": piece.topology}
    mounts = [{"name": "shared-memory", "mountPath": "/dev/shm"}]
    volumes: list[dict[str, Any]] = [{"name": "shared-memory", "emptyDir": {"medium": "Memory"}}]  # for the data workers
    for k, mount in enumerate(parsed.mount):
        mounts.append({"name": f"bucket-{k}", "mountPath": mount.path})
        attributes = {"bucketName": mount.bucket, "mountOptions": "implicit-dirs"}
        volumes.append({"name": f"bucket-{k}", "csi": {"driver": "gcsfuse.csi.storage.gke.io", "volumeAttributes": attributes}})
    pod: dict[str, Any] = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 300}
    if piece.hosts > 1:  # the hosts' own network, as GKE advises between slices
        pod |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
    if parsed.service_account:
        pod["serviceAccountName"] = parsed.service_account
    pod["nodeSelector"] = selector
    if parsed.spot:
        selector["cloud.google.com/gke-spot"] = "true"
        taint = {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
        pod["tolerations"] = [taint]
    pod["containers"] = [
        {
            "name": "train",
            "image": parsed.image,
            "command": ["bash", "-c", escaped(common.guarded(common.train_command(parsed)))],
            "ports": [{"containerPort": 8471}, {"containerPort": 8080}],  # between TPU hosts, between slices
            "resources": {"limits": {"google.com/tpu": piece.chips}},
            "volumeMounts": mounts,
        }
    ]
    pod["volumes"] = volumes
    job = {
        "parallelism": piece.hosts,
        "completions": piece.hosts,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        # A pod that was preempted or evicted fails the job for this reason, which the rule below tells from other failures.
        "podFailurePolicy": {
            "rules": [{"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
        },
        "template": {**({"metadata": {"annotations": {"gke-gcsfuse/volumes": "true"}}} if parsed.mount else {}), "spec": pod},
    }
    metadata: dict[str, Any] = {"name": parsed.name, "namespace": parsed.namespace}
    if piece.hosts > 1:  # a slice of several hosts is a node pool of its own
        metadata["annotations"] = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
    rule = {"name": "preempted", "action": "RestartJobSetAndIgnoreMaxRestarts", "onJobFailureReasons": ["PodFailurePolicy"]}
    policy = {"maxRestarts": parsed.restarts, "restartStrategy": "BlockingRecreate", "rules": [rule]}
    jobs = [{"name": "slice", "replicas": parsed.slices, "template": {"spec": job}}]
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": metadata,
        "spec": {"failurePolicy": policy, "replicatedJobs": jobs},
    }


def escaped(text: str) -> str:
    """As Kubernetes reads a command: it takes $$ for $, and $(NAME) for a variable."""
    return re.sub(r"\$(?=[$(])", "$$", text)


def node_pool(parsed: argparse.Namespace) -> list[str]:
    """The command that makes a node pool for one slice."""
    piece = slices.get(parsed.type)
    return [
        "gcloud",
        "container",
        "node-pools",
        "create",
        f"{piece.name}-0",
        "--cluster=CLUSTER",
        "--location=LOCATION",
        "--node-locations=ZONE",
        f"--machine-type={piece.machine}",
        f"--tpu-topology={piece.topology}",
        f"--num-nodes={piece.hosts}",
        *(["--spot"] if parsed.spot else []),
    ]


def ended(kubectl: Sequence[str], name: str) -> str:
    """Completed, Failed, or nothing while it runs or where there is none."""
    command = [*kubectl, "get", "jobset", name, "--ignore-not-found", "--output=jsonpath={.status.terminalState}"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    if shown.returncode:
        raise common.LaunchError(f"kubectl cannot see jobset {name}: {' '.join(shown.stderr.split())}")
    return shown.stdout.strip()


def run(arguments: Sequence[str]) -> int:
    options = common.parser(__doc__)
    options.add_argument("--type", required=True, help="v5e-16, v5p-128, ...")
    options.add_argument("--image", required=True, help="container image with this package installed")
    options.add_argument("--slices", type=int, default=1, help="number of slices in one run, connected by the network")
    options.add_argument("--spot", action="store_true", help="use spot nodes")
    options.add_argument("--namespace", default="default")
    options.add_argument("--service-account", help="Kubernetes service account with rights on the buckets")
    options.add_argument("--restarts", type=int, default=10, help="restarts after failures other than preemption")
    options.add_argument("--wait", action="store_true", help="return when the run has ended, with its status")
    options.add_argument("--poll", type=float, default=30.0, help="seconds between status checks, with --wait")
    common.add_mounts(options)
    parsed = common.parse(options, arguments)
    piece = slices.get(parsed.type)
    if parsed.slices < 1 or (parsed.slices > 1 and piece.hosts == 1):
        raise common.LaunchError(f"--slices {parsed.slices}: GKE joins slices of several hosts only; {piece.name} has one")
    parsed.config = common.check_config(parsed.config)
    common.check_workdir(parsed.workdir, parsed.mount)
    text = common.yaml_text(manifest(parsed))
    kubectl = ["kubectl", f"--namespace={parsed.namespace}"]
    apply, delete = [*kubectl, "apply", "--filename=-"], [*kubectl, "delete", "jobset", parsed.name]
    if parsed.dry_run:
        print(f"# a node pool for each slice: {shlex.join(node_pool(parsed))}")
        print(text, end="")
        common.show(apply)
        return 0
    common.require("kubectl", "see https://kubernetes.io/docs/tasks/tools")
    if ended(kubectl, parsed.name):  # one that has ended does not start again by being applied
        common.call(delete)
    if status := common.call(apply, text):
        return status
    label, count = f"jobset.sigs.k8s.io/jobset-name={parsed.name}", parsed.slices * piece.hosts
    print("its output:")
    common.show([*kubectl, "logs", "--follow", "--prefix", f"--selector={label}", f"--max-log-requests={count}"])
    print("to stop it:")
    common.show(delete)
    while parsed.wait:
        if state := ended(kubectl, parsed.name):
            print(f"{parsed.name}: {state}")
            return 0 if state == "Completed" else 1
        time.sleep(parsed.poll)
    return 0


if __name__ == "__main__":
    common.main(run)
