"""Those a shard of the central variable serves, as they have said who they are.

Imports gossip.directory, gossip.layout, and gossip.server's memory and protocol.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gossip.directory import JobDirectory, map_file
from gossip.layout import Member
from gossip.server import protocol
from gossip.server.memory import Part


@dataclass
class Client:
    """One worker, or what stands for one of another host.

    Attributes:
        member: which.
        desk: a shard's slice of its desk.
        file: where the desk is.
        part: what it would start w~ with.
        far: whether it is on another host; its desk stays as long as it may come back.
        settled: whether it has said its last word.
    """

    member: Member
    desk: Tensor
    file: Path
    part: Part
    far: bool
    settled: bool = False

    @classmethod
    def of(cls, message: dict[str, Any], directory: JobDirectory, shard: int, shards: int) -> Client:
        """The one that says this.

        Raises:
            OSError: it has no desk in the job directory.
        """
        member, model, far = Member(*message["member"]), model_of(message), bool(message.get("far"))
        cuts = protocol.cuts(model[0], shards)
        begin, end = cuts[shard], cuts[shard + 1]
        dtype: torch.dtype = getattr(torch, message["dtype"])
        file = directory.path / f"{member.seat}-{member.generation}.{'far' if far else 'desk'}"
        mapped: Any = map_file(file, model[0] * dtype.itemsize)
        desk = torch.frombuffer(mapped, dtype=dtype)[begin:end]
        weights = min(max(int(message["weights"]) - begin, 0), end - begin)
        return cls(member, desk, file, Part(desk, weights, int(message["version"]), model), far)


def model_of(message: dict[str, Any]) -> tuple[int, int]:
    """Elements of the weight vector of somebody who says who it is, and its model's fingerprint."""
    return int(message["dimension"]), int(message["fingerprint"])
