"""Regularizers that act on activations, as losses of a model's forward pass."""

from regularizers.analysis.edm import Edm
from regularizers.base import REGULARIZERS, Regularizer
from regularizers.mean_square import MeanSquare
from regularizers.mutual_information import MutualInformation
from regularizers.reve import Reve
from regularizers.shade import Shade
from regularizers.vcl import VarianceConstancy

__all__ = [
    "REGULARIZERS",
    "Edm",
    "MeanSquare",
    "MutualInformation",
    "Regularizer",
    "Reve",
    "Shade",
    "VarianceConstancy",
]
