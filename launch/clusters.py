"""`gosgd launch`: writes what starts a job on a cluster. Imports launch.arguments; torch only when a command runs."""

from __future__ import annotations

import argparse
import math

from launch.arguments import add_config, duration

SIGNAL_BEFORE_S = 120


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments of `gosgd launch`."""
    parser.epilog = (
        "examples:\n"
        "  gosgd launch slurm job.yaml --nodes 4 --gpus-per-node 8 --time 12:00:00\n"
        "  gosgd launch kubernetes job.yaml --nodes 4 --gpus-per-node 8 --image registry.example/team/train:1\n"
        "\n"
        "`gosgd launch slurm --help` and `gosgd launch kubernetes --help` show every option; see docs/clusters.md."
    )
    targets = parser.add_subparsers(dest="target", required=True, metavar="slurm|kubernetes")
    for name, summary, node, add_options in (
        ("slurm", "write a script for sbatch", "machine", _add_slurm),
        ("kubernetes", "write a manifest for kubectl", "pod", _add_kubernetes),
    ):
        options = targets.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        add_config(options)
        options.add_argument("--nodes", type=int, required=True, metavar="N", help=f"how many {node}s")
        each = options.add_mutually_exclusive_group(required=True)
        each.add_argument("--gpus-per-node", type=int, metavar="G", help=f"GPUs of a {node}, with one worker for each")
        each.add_argument("--workers-per-node", type=int, metavar="W", help=f"workers of a {node}, on CPUs")
        add_options(options)


def _whole_seconds(text: str) -> int:
    """A time as sbatch takes it; where it has a fraction of a second, the second is whole."""
    return math.ceil(duration(text))


def _add_slurm(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n"
        "  gosgd launch slurm job.yaml --nodes 4 --gpus-per-node 8 --time 12:00:00 --partition gpu\n"
        "  gosgd launch slurm digits --nodes 1 --workers-per-node 16 --mem 32G --setup 'module load python' --submit\n"
        "\n"
        "The script goes to the run directory (run.dir, or runs/NAME), which every node must see under the same path.\n"
        "It saves before the time is up, and queues the job again until the run is finished."
    )
    parser.add_argument("--time", metavar="T", help="of one job: minutes, hours:minutes:seconds, days-hours")
    parser.add_argument("--partition", metavar="NAME", help="to run in")
    parser.add_argument("--account", metavar="NAME", help="to charge")
    parser.add_argument("--cpus-per-task", type=int, metavar="N", help="of a node (default: as the workers' threads)")
    parser.add_argument("--mem", metavar="SIZE", help="of a node, such as 64G")
    parser.add_argument(
        "--signal-before",
        type=_whole_seconds,
        default=SIGNAL_BEFORE_S,
        metavar="T",
        help="how long before the time is up the workers are told to save, such as 90s or 5m (default: 2m)",
    )
    parser.add_argument(
        "--port", type=int, metavar="P", help="of torchrun on the first node (default: from the job's id)"
    )
    parser.add_argument(
        "--setup",
        action="append",
        default=[],
        metavar="FILE|LINE",
        help="a file to source, or a line to run, that makes `python` the one with gosgd; may be given several times"
        " (default: the Python of this command)",
    )
    parser.add_argument("--submit", action="store_true", help="hand the script to sbatch")


def _add_kubernetes(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n"
        "  gosgd launch kubernetes job.yaml --nodes 4 --gpus-per-node 8 --image registry.example/team/train:1 \\\n"
        "      --storage-claim training --memory 256Gi\n"
        "  gosgd launch kubernetes digits exchange='{method: persyn, tau: 10}' --nodes 2 --workers-per-node 4 \\\n"
        "      --image registry.example/team/train:1 --kind pytorchjob\n"
        "\n"
        "The manifest goes to the run directory (run.dir, or runs/NAME). Nothing is submitted."
    )
    parser.add_argument("--image", required=True, metavar="IMAGE", help="with gosgd and all that the job imports")
    parser.add_argument(
        "--kind",
        choices=["trainjob", "pytorchjob", "statefulset"],
        help="trainjob (Kubeflow Trainer), pytorchjob (Kubeflow Training Operator), or statefulset, where a lost pod of"
        " a gossip job comes back alone (default: statefulset for gossip, else trainjob)",
    )
    parser.add_argument("--namespace", metavar="NAME", help="(default: that of kubectl)")
    parser.add_argument("--memory", metavar="SIZE", help="of a pod, such as 64Gi; its shared memory counts")
    parser.add_argument("--cpus", type=int, metavar="N", help="of a pod (default: as the workers' threads)")
    parser.add_argument(
        "--storage-claim",
        metavar="NAME",
        help="a persistent volume claim that many pods can write to, at /storage, which is the working directory"
        " (default: what a pod writes is lost with it)",
    )
    parser.add_argument("--secret", metavar="NAME", help="a Secret with the key `secret` (default: JOB-secret)")
    parser.add_argument("--shared-memory", metavar="SIZE", help="of a pod (default: from the model)")


def launch(given: argparse.Namespace) -> int:
    """Write the job, and start it if asked to."""
    if given.target == "slurm":
        from launch import slurm

        return slurm.run(given)
    from launch import kubernetes

    return kubernetes.run(given)
