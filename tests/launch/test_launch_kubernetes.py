"""Manifests, read back as data and checked against the fields that the controllers know.

Fields and types: Kubernetes API reference, core/v1 (Pod, ConfigMap, Service) and apps/v1 (StatefulSet);
github.com/kubeflow/trainer, pkg/apis/trainer/v1alpha1/trainjob_types.go and trainingruntime_types.go, with
sigs.k8s.io/jobset v1alpha2 inside; github.com/kubeflow/training-operator, pkg/apis/kubeflow.org/v1/pytorch_types.go and
common_types.go. What the controllers set: pkg/runtime/framework/plugins/torch/torch.go (PET_*), and
pkg/controller.v1/pytorch/envvar.go (RANK of the pod, MASTER_ADDR, MASTER_PORT).
"""

import re
import subprocess

import pytest
import yaml

import configs
from configs.files import write_atomically
from launch.cli import main
from launch.kubernetes import name_of, size
from launch.plan import shared_memory
from trainers.schema import Run

TEXT, COUNT, FLAG = str, int, bool
ENV = [{"name": TEXT, "value?": TEXT, "valueFrom?": {"secretKeyRef": {"name": TEXT, "key": TEXT}}}]
CONTAINER = {
    "name": TEXT,
    "image": TEXT,
    "workingDir": TEXT,
    "command": [TEXT],
    "env": ENV,
    "ports?": [{"name": TEXT, "containerPort": COUNT}],
    "resources": {
        "requests": {"cpu": TEXT, "memory?": TEXT},
        "limits": {"cpu": TEXT, "memory?": TEXT, "nvidia.com/gpu?": COUNT},
    },
    "volumeMounts": [{"name": TEXT, "mountPath": TEXT}],
}
VOLUME = {
    "name": TEXT,
    "emptyDir?": {"medium?": TEXT, "sizeLimit?": TEXT},
    "configMap?": {"name": TEXT},
    "persistentVolumeClaim?": {"claimName": TEXT},
}
POD = {
    "restartPolicy?": TEXT,
    "terminationGracePeriodSeconds": COUNT,
    "automountServiceAccountToken": FLAG,
    "containers": [CONTAINER],
    "volumes": [VOLUME],
}
METADATA = {"name": TEXT, "namespace?": TEXT, "labels": {TEXT: TEXT}}
TEMPLATE = {"metadata": {"labels": {TEXT: TEXT}}, "spec": POD}
REPLICAS = {"replicas": COUNT, "restartPolicy": TEXT, "template": TEMPLATE}
JOB = {"metadata": {"labels": {TEXT: TEXT}}, "spec": {"template": {"spec": POD}}}
SPECS = {
    ("v1", "Service"): {
        "clusterIP": TEXT,
        "publishNotReadyAddresses": FLAG,
        "selector": {TEXT: TEXT},
        "ports": [{"name": TEXT, "port": COUNT}],
    },
    ("apps/v1", "StatefulSet"): {
        "serviceName": TEXT,
        "replicas": COUNT,
        "podManagementPolicy": TEXT,
        "selector": {"matchLabels": {TEXT: TEXT}},
        "template": TEMPLATE,
    },
    ("trainer.kubeflow.org/v1alpha1", "TrainingRuntime"): {
        "mlPolicy": {"numNodes": COUNT, "torch": {"numProcPerNode": COUNT}},
        "template": {"spec": {"replicatedJobs": [{"name": TEXT, "template": JOB}]}},
    },
    ("trainer.kubeflow.org/v1alpha1", "TrainJob"): {
        "runtimeRef": {"apiGroup": TEXT, "kind": TEXT, "name": TEXT},
        "trainer": {"numNodes": COUNT, "numProcPerNode": COUNT},
    },
    ("kubeflow.org/v1", "PyTorchJob"): {
        "nprocPerNode": TEXT,
        "runPolicy": {"cleanPodPolicy": TEXT},
        "pytorchReplicaSpecs": {"Master": REPLICAS, "Worker?": REPLICAS},
    },
}
KINDS = {
    "statefulset": ["ConfigMap", "Service", "StatefulSet"],
    "trainjob": ["ConfigMap", "TrainingRuntime", "TrainJob"],
    "pytorchjob": ["ConfigMap", "PyTorchJob"],
}


def fits(value, shape, where=""):
    """Check names and types of fields; `field?` need not be there."""
    if isinstance(shape, list):
        assert isinstance(value, list), where
        for index, entry in enumerate(value):
            fits(entry, shape[0], f"{where}[{index}]")
    elif isinstance(shape, dict) and TEXT in shape:
        assert all(type(part) is str for pair in value.items() for part in pair), where
    elif isinstance(shape, dict):
        known = {name.rstrip("?"): inner for name, inner in shape.items()}
        assert {*value} <= {*known}, f"{where}: unknown { ({*value} - {*known}) }"
        assert {name for name in shape if not name.endswith("?")} <= {*value}, where
        for name, inner in value.items():
            fits(inner, known[name], f"{where}.{name}")
    else:
        assert type(value) is shape, f"{where}: {value!r}"


def write(job, *arguments):
    """The manifests of a job, checked field by field: {kind: manifest}."""
    options = [] if any("-per-node" in word for word in arguments) else ["--workers-per-node", "2"]
    nodes = [] if "--nodes" in arguments else ["--nodes", "3"]
    assert main(["launch", "kubernetes", *arguments, *nodes, *options, "--image", "lab/train:1"]) == 0
    documents = [*yaml.safe_load_all((job / "runs" / "small" / "kubernetes.yaml").read_text())]
    for document in documents:
        shape = {"data": {TEXT: TEXT}} if document["kind"] == "ConfigMap" else {"spec": SPECS[what(document)]}
        fits(document, {"apiVersion": TEXT, "kind": TEXT, "metadata": METADATA} | shape, document["kind"])
    return {document["kind"]: document for document in documents}


def what(document):
    """Version and kind."""
    return document["apiVersion"], document["kind"]


def pods(manifests):
    """Every pod that the manifests describe."""
    if "StatefulSet" in manifests:
        return [manifests["StatefulSet"]["spec"]["template"]["spec"]]
    if "TrainingRuntime" in manifests:
        (replicated,) = manifests["TrainingRuntime"]["spec"]["template"]["spec"]["replicatedJobs"]
        return [replicated["template"]["spec"]["template"]["spec"]]
    return [role["template"]["spec"] for role in manifests["PyTorchJob"]["spec"]["pytorchReplicaSpecs"].values()]


@pytest.mark.parametrize("kind", KINDS)
def test_the_manifests_are_whole_and_fit_together(job, capsys, kind):
    found = write(job, "small.yaml", "--kind", kind, "--namespace", "lab", "--storage-claim", "shared")
    out = "runs/small/kubernetes.yaml\nkubectl apply -f runs/small/kubernetes.yaml\n"
    assert capsys.readouterr().out == out
    assert [*found] == KINDS[kind]
    assert {document["metadata"]["namespace"] for document in found.values()} == {"lab"}
    assert {document["metadata"]["name"] for document in found.values()} == {"small"}
    configuration = found["ConfigMap"]["data"]["launch.yaml"]
    write_atomically(job / "inside.yaml", lambda draft: draft.write_text(configuration))
    run = configs.load(job / "inside.yaml", [], Run).config.run
    assert (run.workers, run.dir) == (6, "runs/small")
    for pod in pods(found):
        (container,) = pod["containers"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert {*mounts.values()} == {*volumes}
        assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
        assert volumes[mounts["/etc/gosgd"]]["configMap"]["name"] == found["ConfigMap"]["metadata"]["name"]
        assert volumes[mounts["/storage"]]["persistentVolumeClaim"]["claimName"] == "shared"
        assert container["workingDir"] == "/storage"
        assert container["image"] == "lab/train:1"
        assert container["resources"]["limits"] == {"cpu": "2"}
        assert pod["terminationGracePeriodSeconds"] > run.grace_s == 30
        env = {entry["name"]: entry for entry in container["env"]}
        assert env["GOSGD_SECRET"]["valueFrom"]["secretKeyRef"] == {"name": "small-secret", "key": "secret"}
        assert env["OMP_NUM_THREADS"]["value"] == "1"


def test_a_lost_pod_of_a_gossip_job_comes_back_alone_with_its_own_rank(job):
    found = write(job, "small.yaml")
    assert [*found] == KINDS["statefulset"]
    service, spec = found["Service"], found["StatefulSet"]["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"].items() <= labels.items()
    assert service["spec"]["selector"].items() <= labels.items()
    assert (service["spec"]["clusterIP"], service["metadata"]["name"]) == ("None", spec["serviceName"])
    assert (spec["podManagementPolicy"], spec["replicas"]) == ("Parallel", 3)
    assert spec["template"]["spec"]["restartPolicy"] == "Always"
    assert spec["template"]["spec"]["containers"][0]["command"] == ["sh", "/etc/gosgd/node.sh"]
    script = found["ConfigMap"]["data"]["node.sh"]
    assert subprocess.run(["sh", "-n"], input=script, text=True, check=False).returncode == 0
    for part in ("--nnodes=3", "--nproc-per-node=2", "--node-rank=${HOSTNAME##*-}", "--master-addr=small-0.small"):
        assert f" {part} " in script
    assert "-m launch.train /etc/gosgd/launch.yaml --resume auto &\n" in script


@pytest.mark.parametrize(("code", "kept"), [(0, True), (3, False)])
def test_a_pod_that_is_done_stays_and_one_that_failed_is_started_again(job, monkeypatch, code, kept):
    script = write(job, "small.yaml")["ConfigMap"]["data"]["node.sh"]
    (job / "bin").mkdir()
    (job / "bin" / "python").write_text(f'#!/bin/sh\necho "$@" > {job}/started\nexit {code}\n')
    (job / "bin" / "python").chmod(0o755)
    monkeypatch.setenv("PATH", str(job / "bin"), prepend=":")
    monkeypatch.setenv("HOSTNAME", "small-2")
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True) as node:
        said = node.stdout.readline()
        assert "--node-rank=2 " in (job / "started").read_text()
        assert (said == "done; the pods can be deleted\n") is kept
        if kept:
            with pytest.raises(subprocess.TimeoutExpired):
                node.wait(0.2)
            node.terminate()
        assert node.wait(10) == code


def test_a_train_job_refers_to_the_runtime_that_comes_with_it(job):
    found = write(job, "small.yaml", "exchange={method: persyn, tau: 5}", "--gpus-per-node", "8")
    assert [*found] == KINDS["trainjob"]
    runtime, spec = found["TrainingRuntime"], found["TrainJob"]["spec"]
    assert (spec["runtimeRef"]["kind"], spec["runtimeRef"]["name"]) == (runtime["kind"], runtime["metadata"]["name"])
    assert f"{spec['runtimeRef']['apiGroup']}/v1alpha1" == runtime["apiVersion"]
    assert spec["trainer"] == {"numNodes": 3, "numProcPerNode": 8}
    (replicated,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    # The controller looks for this label, and for a container of this name.
    assert replicated["template"]["metadata"]["labels"] == {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    (pod,) = pods(found)
    (container,) = pod["containers"]
    assert (replicated["name"], container["name"]) == ("node", "node")
    assert container["resources"]["limits"] == {"cpu": "16", "nvidia.com/gpu": 8}
    assert {"--nnodes=3", "--nproc-per-node=8", "--rdzv-backend=c10d"} < {*container["command"]}
    assert "--rdzv-endpoint=$(PET_MASTER_ADDR):$(PET_MASTER_PORT)" in container["command"]
    assert not any(entry["name"].startswith("PET_") for entry in container["env"])  # reserved


def test_a_pytorch_job_has_one_master_and_as_many_workers_as_are_left(job):
    found = write(job, "small.yaml", "--kind", "pytorchjob")
    spec = found["PyTorchJob"]["spec"]
    replicas = spec["pytorchReplicaSpecs"]
    assert {role: replica["replicas"] for role, replica in replicas.items()} == {"Master": 1, "Worker": 2}
    assert spec["nprocPerNode"] == "2"
    for pod in pods(found):
        (container,) = pod["containers"]
        assert container["name"] == "pytorch"
        assert container["ports"] == [{"name": "pytorchjob-port", "containerPort": 29500}]
        assert {"--node-rank=$(RANK)", "--master-addr=$(MASTER_ADDR)"} < {*container["command"]}
    alone = write(job, "small.yaml", "--kind", "pytorchjob", "--nodes", "1")
    assert [*alone["PyTorchJob"]["spec"]["pytorchReplicaSpecs"]] == ["Master"]


def test_shared_memory_is_sized_from_the_model_with_room_to_spare(job):
    def shared(*arguments):
        (pod,) = pods(write(job, "small.yaml", *arguments))
        return size("", pod["volumes"][0]["emptyDir"]["sizeLimit"])

    small = shared()
    assert shared_memory(2, 64, 1216 * 4, slots=4) < small <= 128 << 20
    # 64·2000 + 2000 + 2000·2000 + 2000 + 2000·10 + 10 weights, each tensor padded to 64 bytes
    large = 4 * (128_000 + 2_000 + 4_000_000 + 2_000 + 20_000 + 16)
    needed = shared_memory(8, 64, large, slots=8)  # as many again for messages from other hosts
    assert 1.5 * needed < shared("model={name: mlp, hidden: [2000, 2000]}", "--workers-per-node", "8") < 2 * needed
    alone = shared("model={name: mlp, hidden: [2000, 2000]}", "--workers-per-node", "8", "--nodes", "1")
    assert 1.5 * shared_memory(8, 64, large, slots=4) < alone < needed
    assert shared("--shared-memory", "3Gi") == 3 << 30


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["exchange.roh=0.1"], r"exchange\.roh: got an unknown key"),
        (["--nodes", "0"], "got 0 nodes, expected 1 or more"),
        (
            ["exchange={method: fully_sync}", "--kind", "statefulset"],
            "expected trainjob or",
        ),
        (["--memory", "lots"], "--memory: got 'lots', expected a size such as"),
        (["--memory", "64Mi"], r"--memory: got 64Mi, of which \d+Mi are shared memory; expected more"),
        (["--shared-memory", "0"], "--shared-memory: got '0', expected a size"),
        (["--cpus", "0"], "--cpus: got 0, expected 1 or more"),
        (["--namespace", "My_Lab"], "--namespace: got 'My_Lab', expected small letters"),
        (["--storage-claim", "a b"], "--storage-claim: got 'a b', expected small letters"),
        (["--image", ""], "--image: got '', expected the name of an image"),
        (
            ["data={name: mnist, root: nowhere}"],
            r"override 'data=\{.*\}': data: .*; without data here, give --shared-memory",
        ),
        (["--kind", "job"], "--kind: got 'job', expected one of"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_and_nothing_is_written(job, capsys, options, said):
    before = sorted(job.rglob("*"))
    fill = [("--nodes", "2"), ("--image", "lab/train:1")]
    more = [word for pair in fill if pair[0] not in options for word in pair]
    try:
        code = main(["launch", "kubernetes", "small.yaml", "--workers-per-node", "2", *options, *more])
    except SystemExit as stop:
        code = stop.code
    err = capsys.readouterr().err
    assert code == 2
    assert re.search(said, err), err
    assert err.count("\n") == 1
    assert sorted(path for path in job.rglob("*") if "__pycache__" not in path.parts) == before


def test_names_become_such_as_kubernetes_takes():
    assert name_of("My_run.v2") == "my-run-v2"
    assert name_of("2fast") == "job-2fast"
    assert name_of("...") == "job"
    assert len(name_of("x" * 90)) == 40
