"""Gossip in a training loop of your own: an ordinary PyTorch script with three more lines.

torchrun --nproc-per-node=3 examples/library_use.py
"""

import torch
from torch import nn

import gossip

CLASSES, FEATURES, STEPS, BATCH = 4, 20, 400, 32


def clusters(samples: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy points around one centre a class: x [samples, FEATURES], y [samples]."""
    centres = torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(0))
    y = torch.randint(CLASSES, (samples,), generator=generator)
    return centres[y] + 1.5 * torch.randn(samples, FEATURES, generator=generator), y


def main() -> None:
    model = nn.Sequential(nn.Linear(FEATURES, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, CLASSES))
    exchange = gossip.build("gosgd", model, rho=0.1)  # 1: after .to(device), before the optimizer
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(100 + exchange.job.rank)  # each worker draws its own samples

    for _ in range(STEPS):
        x, y = clusters(BATCH, generator)
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        exchange.step()  # 2: pushes, then merges; never waits for another worker

    if exchange.close():  # 3: true on one worker, whose model is now the consensus of all
        model.eval()
        x, y = clusters(5000, torch.Generator().manual_seed(1))
        accuracy = (model(x).argmax(1) == y).float().mean().item()
        print(f"consensus of {exchange.job.workers} workers after {exchange.steps} steps: accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
