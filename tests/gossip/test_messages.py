"""What becomes of weights on their way through a message that rounds them."""

import pytest
import torch
from torch import nn

from gossip.flat import Flat
from gossip.messages import Messages

pytestmark = pytest.mark.timeout(30)


def passed_on(model: nn.Module, dtype: torch.dtype, weight: float) -> None:
    """Merge a model's weights, as they are in a message, into themselves."""
    flat = Flat(model)
    messages, slot = Messages(flat, 0), torch.empty(flat.dimension, dtype=dtype)
    messages.write(slot)
    messages.merge(slot, weight, 1)


@pytest.mark.parametrize("weight", [0.25, 0.75, 1.0])
def test_what_float16_has_no_room_for_stays_finite(weight):
    model = nn.BatchNorm1d(4)
    model.running_var.fill_(1e5)
    model.running_mean.fill_(-1e5)
    passed_on(model, torch.float16, weight)
    expected = (1 - weight) * 1e5 + weight * 65504
    torch.testing.assert_close(model.running_var, torch.full((4,), expected))
    torch.testing.assert_close(model.running_mean, torch.full((4,), -expected))


def test_bfloat16_has_room_for_all_that_float32_has():
    model = nn.BatchNorm1d(4)
    model.running_var.fill_(1e30)
    passed_on(model, torch.bfloat16, 0.5)
    torch.testing.assert_close(model.running_var, torch.full((4,), 1e30), rtol=0.01, atol=0)


def test_a_model_of_float16_is_merged_as_it_is():
    model = nn.Linear(3, 3).half()
    before = model.weight.detach().clone()
    passed_on(model, torch.float16, 0.5)
    assert torch.equal(model.weight, before)
