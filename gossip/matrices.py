"""Communication matrices K(t) as float64 arrays, one pure function a method, and what can be read off them.

W(t+1) = K(t) W(t+1/2) with W = [w~; w_1; ...; w_M] (thesis (2.9), (2.10)): row and column 0 belong to the central
variable w~, which methods without a master leave alone. Each K is the instant-delivery product of the method's moves
(gossip.moves), so paper, simulator and live run cannot part. Imports gossip.moves and numpy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from gossip.moves import Average, Copy, Elastic, Flush, Merge, Move, Row, dense

Matrix = NDArray[np.float64]


def none(workers: int) -> Matrix:
    """K = I: M independent models.

    Args:
        workers: M, at least 1.
    """
    return np.eye(_rows(workers))


def persyn(workers: int) -> Matrix:
    """K of a synchronisation: every worker's row is (0, 1/M, ..., 1/M) (thesis alg. 2); I between two of them.

    Row 0 stays the identity: the printed zero row would erase w~.
    """
    return _dense(workers, [Average(range(1, _rows(workers)))])


def fully_sync(workers: int) -> Matrix:
    """Every row, w~'s included, is (0, 1/M, ..., 1/M) (thesis alg. 1): w~ is the mean of the workers."""
    matrix = persyn(workers)
    matrix[0] = matrix[1]
    return matrix


def easgd(workers: int, alpha: float) -> Matrix:
    """K of a synchronous elastic move: [[1 - M alpha, alpha 1^T], [alpha 1, (1 - alpha) I]].

    Its eigenvalues are 1, 1 - alpha (M - 1 times) and 1 - (M + 1) alpha.

    Args:
        workers: M.
        alpha: elastic rate.

    Raises:
        ValueError: alpha is not positive, or (M + 1) alpha >= 2, where the last eigenvalue makes the moves diverge.
    """
    check_alpha(workers, alpha)
    return _dense(workers, [Elastic(range(1, _rows(workers)), 0, alpha)])


def easgd_async(workers: int, worker: int, alpha: float) -> Matrix:
    """K of an asynchronous elastic move: worker m and w~ only, both from the same old values.

    Args:
        worker: m, 1 to M.
    """
    check_alpha(1, alpha)
    return _dense(workers, [Elastic([_worker(workers, worker)], 0, alpha)])


def downpour_fetch(workers: int, worker: int) -> Matrix:
    """K of a fetch: worker m's row is w~'s unit vector (Dean et al. 2012)."""
    return _dense(workers, [Copy(_worker(workers, worker), 0)])


def downpour_push(workers: int, worker: int) -> Matrix:
    """K of a push on the state with one accumulator a worker below the others: w~ <- w~ + a_m, a_m <- 0.

    The printed K_send has row sum 2 and only makes sense so. It is the method's other half beside `downpour_fetch`;
    `gosgd explain`, whose matrices are of w~ and the workers alone, has no place for it.

    Returns:
        [2M+1, 2M+1] for [w~; w_1 ... w_M; a_1 ... a_M].
    """
    return _dense(workers, [Flush(0, workers + _worker(workers, worker))], further=workers)


def gosgd(workers: int, sender: int, receiver: int, weight: float) -> Matrix:
    """K = I + a (e_r e_s^T - e_r e_r^T): a push and its merge ((2.11) as printed loses mass).

    Args:
        workers: M.
        sender: s, 1 to M.
        receiver: r, 1 to M, another one.
        weight: a in [0, 1], see `gossip_weight`.
    """
    if sender == receiver:
        raise ValueError(f"got worker {sender} as sender and receiver, expected two different workers")
    if not 0 <= weight <= 1:
        raise ValueError(f"got weight={weight}, expected 0 to 1")
    message = _rows(workers)
    moves = [Copy(message, _worker(workers, sender)), Merge(_worker(workers, receiver), message, weight)]
    # On return the message has been read: its row is gone, and its column is zero because it was written first.
    return _dense(workers, moves, further=1)[:message, :message]


def gossip_weight(sender_mass: float, receiver_mass: float) -> float:
    """a = lambda_s / (lambda_s + 2 lambda_r), with the masses before the push."""
    return sender_mass / (sender_mass + 2 * receiver_mass)


def pairwise(workers: int, first: int, second: int) -> Matrix:
    """Symmetric gossip: both workers take their mean, K = I - (e_i - e_j)(e_i - e_j)^T / 2 (Boyd et al. 2006)."""
    return _dense(workers, [Average([_worker(workers, first), _worker(workers, second)])])


def product(matrices: Iterable[Matrix]) -> Matrix:
    """K(t) ... K(1) K(0) of matrices in the order of time: a later one stands on the left."""
    total: Matrix | None = None
    for matrix in matrices:
        total = matrix if total is None else matrix @ total
    if total is None:
        raise ValueError("got no matrix, expected at least one")
    return total


def keeps_consensus(matrix: Matrix, tolerance: float = 1e-9) -> bool:
    """Whether every row sums to 1, so that equal weights stay as they are."""
    return bool(np.allclose(matrix.sum(1), 1.0, rtol=0, atol=tolerance))


def vectors(matrix: Matrix) -> int:
    """How many weight vectors travel where worker 1 keeps w~: entries of K off the diagonal, but for its own two rows.

    What worker 1 reads of another comes once for both, and what one of its rows reads of the other does not travel.

    Args:
        matrix: [M+1, M+1].
    """
    read = matrix[1:] != 0
    read[0] |= matrix[0] != 0
    read[0, 0] = False
    return int(np.count_nonzero(read) - np.count_nonzero(read[:, 1:].diagonal()))


def spectral_gap(matrix: Matrix) -> float:
    """1 - |lambda_2|: what one application of K takes off the slowest mode of disagreement.

    w~ counts only where somebody reads it; else its row and column are left out.

    Args:
        matrix: [M+1, M+1], rows summing to 1.

    Returns:
        0 for the identity, 1 where one application makes all equal.
    """
    alone = not matrix[1:, 0].any()
    block = matrix[1:, 1:] if alone else matrix
    moduli = np.sort(np.abs(np.linalg.eigvals(block)))[::-1]
    return float(1.0 - moduli[1]) if len(moduli) > 1 else 1.0


def expected_gosgd(workers: int, rate: float, weight: float) -> Matrix:
    """E K of one tick at which a random worker wakes and pushes with probability rho to a uniform peer, merged with a.

    On the workers (1 - rho a / M) I + rho a / (M (M - 1)) (1 1^T - I). That of symmetric gossip is the same with a = 1:
    two workers take half of each other.
    """
    matrix = np.eye(_rows(workers))
    if workers > 1:
        moved = rate * weight / workers
        matrix[1:, 1:] = (1 - moved) * np.eye(workers) + moved / (workers - 1) * (1 - np.eye(workers))
    return matrix


def expected_easgd_async(workers: int, alpha: float) -> Matrix:
    """E K of an elastic move by a uniformly random worker."""
    check_alpha(1, alpha)
    moves = [easgd_async(workers, worker, alpha) for worker in range(1, _rows(workers))]
    return np.asarray(sum(moves) / workers, dtype=np.float64)


def check_alpha(workers: int, alpha: float) -> None:
    """Refuse an elastic rate at which the moves diverge.

    Raises:
        ValueError: alpha <= 0 or (M + 1) alpha >= 2.
    """
    if alpha <= 0 or (workers + 1) * alpha >= 2:
        raise ValueError(
            f"got alpha={alpha:g} for {workers} workers, expected 0 < alpha < {2 / (workers + 1):g}: the eigenvalue"
            f" 1 - (M + 1) alpha is {1 - (workers + 1) * alpha:g} and the moves would diverge; lower alpha"
        )


def _rows(workers: int) -> int:
    if workers < 1:
        raise ValueError(f"got {workers} workers, expected at least 1")
    return workers + 1


def _worker(workers: int, worker: int) -> int:
    if not 1 <= worker <= workers:
        raise ValueError(f"got worker {worker}, expected 1 to {workers}; row 0 is the central variable's")
    return worker


def _dense(workers: int, moves: Sequence[Move], further: int = 0) -> Matrix:
    """The product of moves on [w~; w_1 ... w_M; further rows], numbered from 0."""
    order: list[Row] = list(range(_rows(workers) + further))
    return product(dense(move, order) for move in moves)
