"""Schedules of communication matrices, as a user of `exchange: {method: matrix}` would write them."""

import numpy as np


def ring_and_center(step, workers):
    """A step on a ring of workers, then a pull towards w~, then nothing."""
    if step % 3 == 2:
        return None
    if step % 3 == 0:
        return 0.75 * np.eye(workers) + 0.25 * np.roll(np.eye(workers), 1, axis=1)
    matrix = 0.8 * np.eye(workers + 1)
    matrix[1:, 0] = 0.2
    matrix[0] = 1 / (workers + 1)
    return matrix


def averaging(step, workers):
    """Everybody takes the mean."""
    return np.full((workers, workers), 1 / workers)


def wrong_shape(step, workers):
    return np.eye(workers + 3)


def wrong_sum(step, workers):
    return 0.9 * np.eye(workers)


def negative(step, workers):
    return np.eye(workers) + np.roll(np.eye(workers), 1, axis=1) - np.roll(np.eye(workers), -1, axis=1)


def wrong_later(step, workers):
    return np.eye(workers) * (1.0 if step < 4 else 0.5)


def no_matrix(step, workers):
    return "nothing"


def of_step_only(step):
    return None
