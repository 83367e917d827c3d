"""Measures of what a trained model's layers hold: covariances, modes, binary codes, mutual information."""
