"""Regularizers that act on activations, as losses of a model's forward pass."""

from regularizers.base import REGULARIZERS, Regularizer
from regularizers.mean_square import MeanSquare
from regularizers.reve import Reve

__all__ = ["REGULARIZERS", "MeanSquare", "Regularizer", "Reve"]
