"""What Kubernetes is given for a job, as plain data, and how it is written. Imports launch.torchrun.

Fields are those of core/v1 and apps/v1, of trainer.kubeflow.org/v1alpha1 (Kubeflow Trainer: TrainingRuntime, TrainJob)
and of kubeflow.org/v1 (Kubeflow Training Operator: PyTorchJob).
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from launch.torchrun import PORT, ClusterJob

Manifest = dict[str, Any]

STORAGE, CONFIGURATION, SECRET_KEY = "/storage", "/etc/gosgd/launch.yaml", "secret"
_TORCHRUN_S = 30
"""What torchrun may take beyond its workers before a pod is killed."""


@dataclass(frozen=True)
class Pods:
    """What the pods of a job have in common.

    Attributes:
        job: what they run.
        name: of everything that belongs to them.
        image: of their container.
        namespace: where they live; that of kubectl by default.
        cpus: of a pod.
        memory: of a pod, as Kubernetes spells it, if it is bounded.
        shared_mib: MiB of /dev/shm.
        claim: of the volume that all of them write to.
        secret: name of the Secret they share.
        configuration: YAML for the workers.
    """

    job: ClusterJob
    name: str
    image: str
    namespace: str | None
    cpus: int
    memory: str | None
    shared_mib: int
    claim: str | None
    secret: str
    configuration: str

    @property
    def labels(self) -> dict[str, str]:
        """Of every object, and what a pod is found by."""
        return {"app.kubernetes.io/name": "gosgd", "app.kubernetes.io/instance": self.name}

    def metadata(self) -> Manifest:
        """Of an object on its own."""
        return {"name": self.name} | ({"namespace": self.namespace} if self.namespace else {}) | {"labels": self.labels}

    def torchrun(self, address: str, port: str | int, rank: str) -> list[str]:
        """The command line of a node."""
        start = ["python", "-m", "torch.distributed.run", *self.job.arguments(self.name, address, port, rank)]
        return [*start, "-m", "launch.train", CONFIGURATION, "--resume", "auto"]

    def files(self, **others: str) -> Manifest:
        """The ConfigMap with the configuration."""
        data = {Path(CONFIGURATION).name: self.configuration} | others
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": self.metadata(), "data": data}

    def pod(self, container: str, command: list[str], **more: Any) -> Manifest:
        """The specification of a pod.

        Args:
            container: its name, which Kubeflow's controllers look for.
            command: what runs in it.
            more: further fields of the container.
        """
        run, mounts = self.job.run, {"shared-memory": "/dev/shm", "configuration": "/etc/gosgd", "storage": STORAGE}
        secret = {"secretKeyRef": {"name": self.secret, "key": SECRET_KEY}}
        grace = math.ceil(run.run.grace_s)
        amounts: Manifest = {"cpu": str(self.cpus)} | ({"memory": self.memory} if self.memory else {})
        limits = amounts | ({"nvidia.com/gpu": self.job.each} if self.job.gpus else {})
        storage: Manifest = {"persistentVolumeClaim": {"claimName": self.claim}} if self.claim else {"emptyDir": {}}
        return {
            "terminationGracePeriodSeconds": grace + _TORCHRUN_S,
            "automountServiceAccountToken": False,
            "containers": [
                {
                    "name": container,
                    "image": self.image,
                    "workingDir": STORAGE,
                    "command": command,
                    "env": [
                        {"name": "OMP_NUM_THREADS", "value": str(run.train.threads)},
                        {"name": "PYTHONSAFEPATH", "value": "1"},
                        {"name": "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "value": str(grace)},
                        {"name": "GOSGD_SECRET", "valueFrom": secret},
                    ],
                    **more,
                    "resources": {"requests": amounts, "limits": limits},
                    "volumeMounts": [{"name": name, "mountPath": path} for name, path in mounts.items()],
                }
            ],
            "volumes": [
                {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": f"{self.shared_mib}Mi"}},
                {"name": "configuration", "configMap": {"name": self.name}},
                {"name": "storage", **storage},
            ],
        }


def stateful_set(pods: Pods) -> list[Manifest]:
    """A headless Service and a StatefulSet, whose pods keep their number and come back alone."""
    line = " ".join(pods.torchrun(f"{pods.name}-0.{pods.name}", PORT, "${HOSTNAME##*-}"))
    spec = {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,  # the nodes find each other before any is ready
        "selector": pods.labels,
        "ports": [{"name": "torchrun", "port": PORT}],
    }
    replicas = {
        "serviceName": pods.name,
        "replicas": pods.job.nodes,
        "podManagementPolicy": "Parallel",
        "selector": {"matchLabels": pods.labels},
        "template": {
            "metadata": {"labels": pods.labels},
            "spec": {"restartPolicy": "Always"} | pods.pod("node", ["sh", "/etc/gosgd/node.sh"]),
        },
    }
    return [
        pods.files(**{"node.sh": _NODE.format(torchrun=line)}),
        {"apiVersion": "v1", "kind": "Service", "metadata": pods.metadata(), "spec": spec},
        {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": pods.metadata(), "spec": replicas},
    ]


def train_job(pods: Pods) -> list[Manifest]:
    """A TrainJob with a TrainingRuntime of its own; the controller sets torchrun's PET_ variables."""
    command = pods.torchrun("$(PET_MASTER_ADDR)", "$(PET_MASTER_PORT)", "$(PET_NODE_RANK)")
    step = {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}}
    spec = {"template": {"spec": {"restartPolicy": "OnFailure"} | pods.pod("node", command)}}
    runtime = {
        "mlPolicy": {"numNodes": pods.job.nodes, "torch": {"numProcPerNode": pods.job.each}},
        "template": {"spec": {"replicatedJobs": [{"name": "node", "template": {"metadata": step, "spec": spec}}]}},
    }
    reference = {"apiGroup": "trainer.kubeflow.org", "kind": "TrainingRuntime", "name": pods.name}
    trainer = {"numNodes": pods.job.nodes, "numProcPerNode": pods.job.each}
    about = pods.metadata()
    version = "trainer.kubeflow.org/v1alpha1"
    return [
        pods.files(),
        {
            "apiVersion": version,
            "kind": "TrainingRuntime",
            "metadata": about | {"labels": pods.labels | {"trainer.kubeflow.org/framework": "torch"}},
            "spec": runtime,
        },
        {
            "apiVersion": version,
            "kind": "TrainJob",
            "metadata": about,
            "spec": {"runtimeRef": reference, "trainer": trainer},
        },
    ]


def pytorch_job(pods: Pods) -> list[Manifest]:
    """A PyTorchJob; the controller sets RANK (of the pod), MASTER_ADDR and MASTER_PORT."""
    command = pods.torchrun("$(MASTER_ADDR)", "$(MASTER_PORT)", "$(RANK)")
    pod = pods.pod("pytorch", command, ports=[{"name": "pytorchjob-port", "containerPort": PORT}])
    template = {"metadata": {"labels": pods.labels}, "spec": pod}
    counts = {"Master": 1, "Worker": pods.job.nodes - 1}
    replicas = {
        role: {"replicas": count, "restartPolicy": "OnFailure", "template": template}
        for role, count in counts.items()
        if count
    }
    spec = {
        "nprocPerNode": str(pods.job.each),
        "runPolicy": {"cleanPodPolicy": "None"},
        "pytorchReplicaSpecs": replicas,
    }
    return [
        pods.files(),
        {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": pods.metadata(), "spec": spec},
    ]


KINDS: dict[str, Callable[[Pods], list[Manifest]]] = {
    "statefulset": stateful_set,
    "trainjob": train_job,
    "pytorchjob": pytorch_job,
}


def text(pods: Pods, manifests: list[Manifest], path: Path) -> str:
    """The file for kubectl: what a reader has to know, then the manifests."""
    extra = "[cluster]" if pods.job.gossip_between_nodes else ""
    space = f" --namespace {pods.namespace}" if pods.namespace else ""
    lines = [
        f"{pods.job.describe()}. Start it with: kubectl apply -f {shlex.quote(str(path))}",
        "",
        "Once before, make the secret with which the nodes sign what they tell each other at the start:",
        "  openssl rand -hex 32 | tr -d '\\n' |"
        f" kubectl create secret generic {pods.secret}{space} --from-file={SECRET_KEY}=/dev/stdin",
        "",
        f"The image needs gosgd{extra} and whatever the job imports. Relative paths in the configuration start at"
        f" {STORAGE}:",
        f"the claim {pods.claim}, to which all pods must be able to write (ReadWriteMany)."
        if pods.claim
        else "a folder of each pod that is lost with it, checkpoints included; --storage-claim names a volume instead.",
        "Where pods have several networks, name the fast one in env: NCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME or"
        " UCX_NET_DEVICES.",
    ]
    head = "".join(f"# {line}".rstrip() + "\n" for line in lines)
    return head + yaml.dump_all(manifests, Dumper=_Dumper, sort_keys=False, explicit_start=True, width=1 << 16)


class _Dumper(yaml.SafeDumper):
    """Writes no anchors, and files as blocks of text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Dumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)

_NODE = """\
# A StatefulSet starts again whatever ends: a node that fails comes back with its own rank, one that is done stays.
trap 'kill -TERM "$torchrun"' TERM
{torchrun} &
torchrun=$!
# A signal cuts `wait` short: wait until the process has really ended.
while wait "$torchrun"; code=$?; kill -0 "$torchrun" 2> /dev/null; do :; done
[ "$code" = 0 ] || exit "$code"
echo "done; the pods can be deleted"
trap 'exit 0' TERM
sleep infinity &
wait $!
"""
