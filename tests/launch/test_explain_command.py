"""`gosgd explain`: matrix, gap, costs and expected error of a job that nobody starts."""

import json

import numpy as np
import pytest

from launch.cli import main


def explained(capsys, *arguments):
    assert main(["explain", "small.yaml", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_gossip_is_explained(job, capsys):
    figures = explained(capsys, "--workers", "4", "exchange={method: gosgd, rho: 0.1}")
    matrix = np.array(figures["exchange"])
    np.testing.assert_allclose(matrix[2], [0, 1 / 3, 2 / 3, 0, 0])
    assert figures["this"]["exchange"] == "method: gosgd, rho: 0.1"
    assert figures["this"]["messages"] == 0.1
    assert figures["this"]["bytes"] == pytest.approx(0.1 * figures["vector_bytes"])
    assert figures["this"]["error"] == pytest.approx(43.5, rel=0.15)
    adaptive = next(one for one in figures["others"] if "adaptive" in one["exchange"])
    assert adaptive["messages"] == 0.1
    assert adaptive["error"] < figures["this"]["error"]
    assert not list(job.glob("runs*")), "nothing was written"


@pytest.mark.parametrize(
    ("exchange", "gap", "error"),
    [
        ("{method: persyn, tau: 10}", 1.0, 3 * 4.5),
        ("{method: fully_sync}", 1.0, 0.0),
        ("{method: none}", 0.0, None),
        ("{method: easgd, alpha: 0.1, tau: 1}", 0.1, None),
        ("{method: downpour, n_fetch: 2, n_push: 2}", None, None),
        ("{method: easgd, mode: async, tau: 2}", None, None),
    ],
)
def test_every_method_is_explained(job, capsys, exchange, gap, error):
    figures = explained(capsys, "--workers", "4", f"exchange={exchange}")
    assert np.allclose(np.array(figures["exchange"]).sum(1), 1)
    if gap is not None:
        assert figures["spectral_gap"] == pytest.approx(gap, abs=1e-9)
    if error is not None:
        assert figures["this"]["error"] == pytest.approx(error)
    assert figures["this"]["grows"] == (exchange == "{method: none}")


def test_a_person_reads_a_drawing_and_a_table(job, capsys):
    assert main(["explain", "small.yaml", "--workers", "12"]) == 0
    text = capsys.readouterr().out
    assert "K of a message from worker 1 to worker 2 at equal masses, a = 1/3" in text
    assert "w12" in text
    assert "..." in text, "a large matrix shows its corners"
    assert "(simulated)" in text


def test_a_schedule_of_the_users_own_is_explained_and_a_wrong_one_refused(job, capsys):
    (job / "own_matrices.py").write_text(
        "import numpy as np\n\n\ndef good(step, workers):\n    return np.full((workers, workers), 1 / workers)\n\n\n"
        "def leaky(step, workers):\n    return 0.9 * np.eye(workers)\n"
    )
    good = explained(capsys, "exchange={method: matrix, schedule: 'own_matrices:good'}")
    assert good["spectral_gap_step"] == pytest.approx(1.0)
    for command in ("explain", "train"):
        assert main([command, "small.yaml", "exchange={method: matrix, schedule: 'own_matrices:leaky'}"]) == 2
        said = capsys.readouterr().err
        assert said.startswith(
            "gosgd: override \"exchange={method: matrix, schedule: 'own_matrices:leaky'}\": exchange:"
            " own_matrices:leaky, step 0: got a sum of 0.9 in row 1"
        )
        assert said.count("\n") <= 2
