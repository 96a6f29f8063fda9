"""Trains on TPU slices of a GKE cluster: renders a JobSet and applies it with kubectl.

  python launch/gke.py CONFIG gs://BUCKET/RUN --type v5e-16 --image IMAGE [--slices N] [--spot] [--config.x.y=value ...]

The cluster needs the JobSet controller and a node pool for each slice; --dry-run prints the commands that create one. IMAGE is
a container image with this package and its extras tpu and cloud installed; its working directory contains configs/. All hosts
restart whenever a host is preempted or evicted, and up to --restarts times after other failures; the run resumes from WORKDIR.
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


def job_set(parsed: argparse.Namespace) -> dict[str, Any]:
    """Returns the JobSet: one job per slice, one pod per host."""
    piece = slices.find_slice(parsed.type, gke=True)
    selector = {"cloud.google.com/gke-tpu-accelerator": piece.label, "cloud.google.com/gke-tpu-topology": piece.topology}
    mounts = [{"name": "shared-memory", "mountPath": "/dev/shm"}]
    volumes: list[dict[str, Any]] = [{"name": "shared-memory", "emptyDir": {"medium": "Memory"}}]  # for the data workers
    for k, mount in enumerate(parsed.mount):
        mounts.append({"name": f"bucket-{k}", "mountPath": mount.path})
        attributes = {"bucketName": mount.bucket, "mountOptions": "implicit-dirs"}
        if parsed.slices > 1:  # the storage driver then uses the Kubernetes account of the pod; needs driver 1.17.2 or newer
            attributes["hostNetworkPodKSA"] = "true"
        volumes.append({"name": f"bucket-{k}", "csi": {"driver": "gcsfuse.csi.storage.gke.io", "volumeAttributes": attributes}})
    pod: dict[str, Any] = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 300}
    # GKE recommends the network of the hosts for traffic between slices. Workload Identity does not work there: the process
    # has the service account of the node pool, which node_pool_command sets.
    if parsed.slices > 1:
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
            "command": ["bash", "-c", escape_dollars(common.script_with_stop_status(common.train_command(parsed)))],
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
        # If a pod was preempted or evicted, the job fails with the reason PodFailurePolicy, which the rule below matches.
        "podFailurePolicy": {
            "rules": [{"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
        },
        "template": {**({"metadata": {"annotations": {"gke-gcsfuse/volumes": "true"}}} if parsed.mount else {}), "spec": pod},
    }
    metadata: dict[str, Any] = {"name": parsed.name, "namespace": parsed.namespace}
    if piece.hosts > 1:  # each slice of several hosts has its own node pool
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


def escape_dollars(text: str) -> str:
    """Escapes dollar signs in a command for Kubernetes, which replaces $(NAME) by a variable and $$ by $."""
    return re.sub(r"\$(?=[$(])", "$$", text)


def policy_command(parsed: argparse.Namespace) -> list[str]:
    """Returns the command that creates the workload policy of all node pools; [] if they need none. Ironwood slices of several
    hosts have their topology in it."""
    piece = slices.find_slice(parsed.type, gke=True)
    if piece.accelerator or piece.hosts == 1:
        return []
    policy = ["gcloud", "compute", "resource-policies", "create", "workload-policy", piece.name]
    return [*policy, "--type=HIGH_THROUGHPUT", f"--accelerator-topology={piece.topology}", "--region=REGION"]


def node_pool_command(parsed: argparse.Namespace) -> list[str]:
    """Returns the command that creates a node pool for one slice."""
    piece = slices.find_slice(parsed.type, gke=True)
    topology = [f"--tpu-topology={piece.topology}"] if piece.accelerator else []
    if policy_command(parsed):
        topology = [f"--placement-policy={piece.name}"]
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
        *topology,
        f"--num-nodes={piece.hosts}",
        "--service-account=SERVICE_ACCOUNT",  # of Google Cloud, with rights on the buckets
        "--scopes=cloud-platform",
        "--workload-metadata=GKE_METADATA",
        *(["--spot"] if parsed.spot else []),
    ]


def end_state(kubectl: Sequence[str], name: str) -> str:
    """Returns the final state of a JobSet, Completed or Failed; "" if it is still running or does not exist."""
    command = [*kubectl, "get", "jobset", name, "--ignore-not-found", "--output=jsonpath={.status.terminalState}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise common.LaunchError(
            f"kubectl cannot read jobset {name} ({' '.join(result.stderr.split())}); check the cluster and your permissions"
        )
    return result.stdout.strip()


def run(arguments: Sequence[str]) -> int:
    options = common.make_parser(__doc__)
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
    parsed = common.parse_arguments(options, arguments)
    common.make_check_job(parsed)
    piece = slices.find_slice(parsed.type, gke=True)
    if parsed.slices > 1 and parsed.mount and not parsed.service_account:
        raise common.LaunchError(
            "--mount with several --slices: give the Kubernetes account that may read the bucket with --service-account"
        )
    if parsed.slices < 1 or (parsed.slices > 1 and piece.hosts == 1):
        raise common.LaunchError(
            f"--slices {parsed.slices}: must be at least 1, and 1 for {piece.name}, which has a single host"
        )
    parsed.config = common.config_path_on_hosts(parsed.config)
    common.check_workdir(parsed.workdir, parsed.mount)
    text = common.yaml_text(job_set(parsed))
    kubectl = ["kubectl", f"--namespace={parsed.namespace}"]
    apply, delete = [*kubectl, "apply", "--filename=-"], [*kubectl, "delete", "jobset", parsed.name]
    if parsed.dry_run:
        if policy := policy_command(parsed):
            print(f"# once: {shlex.join(policy)}")
        print(f"# a node pool for each slice: {shlex.join(node_pool_command(parsed))}")
        print(text, end="")
        common.print_command(apply)
        return 0
    common.require_program("kubectl", "see https://kubernetes.io/docs/tasks/tools")
    if end_state(kubectl, parsed.name):  # applying a finished JobSet again would not start it
        common.run_command(delete)
    if status := common.run_command(apply, text):
        return status
    label, count = f"jobset.sigs.k8s.io/jobset-name={parsed.name}", parsed.slices * piece.hosts
    print("to follow its output:")
    common.print_command([*kubectl, "logs", "--follow", "--prefix", f"--selector={label}", f"--max-log-requests={count}"])
    print("to stop it:")
    common.print_command(delete)
    while parsed.wait:
        if state := end_state(kubectl, parsed.name):
            print(f"{parsed.name}: {state}")
            return 0 if state == "Completed" else 1
        time.sleep(parsed.poll)
    return 0


if __name__ == "__main__":
    common.main(run)
