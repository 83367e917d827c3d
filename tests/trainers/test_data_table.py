"""Tables of numbers."""

import numpy as np
import pytest
import torch
from test_data_build import built, whole

pytestmark = pytest.mark.timeout(30)


IRIS = "length,width,kind\n" + "".join(f"{at}.5, {at * at},{'ab'[at % 2]}\n" for at in range(20))


@pytest.mark.parametrize(
    "text", [IRIS, IRIS.split("\n", 1)[1], IRIS.replace("\n", "\r\n"), "\ufeff" + IRIS, IRIS.replace("\n", "\n\n")]
)
def test_a_table_is_standardised_on_its_training_rows(tmp_path, text):
    (tmp_path / "iris.csv").write_text(text, newline="")
    data = built(name="table", path=str(tmp_path / "iris.csv"), batch_size=4)
    assert (data.shape, data.classes, data.train_size, data.test_size) == ((2,), 2, 16, 4)
    x, y = whole(data.train_eval_batches())
    assert x.mean(0).abs().max() < 1e-5 and (x.var(0, correction=0) - 1).abs().max() < 1e-5
    assert torch.bincount(y).tolist() == [8, 8] and torch.bincount(whole(data.test_batches())[1]).tolist() == [2, 2]


def test_a_table_can_name_its_target_and_its_test_rows(tmp_path):
    (tmp_path / "train.csv").write_text("class;x\n10;1\n9;2\n10;3\n")
    (tmp_path / "test.csv").write_text("class;x\n9;5\n")
    paths = {"path": str(tmp_path / "train.csv"), "test_path": str(tmp_path / "test.csv")}
    data = built(name="table", **paths, target="class", delimiter=";", batch_size=1, normalize=False)
    (x, y), (held_out, held_y) = whole(data.train_eval_batches()), whole(data.test_batches())
    assert (x.tolist(), y.tolist()) == ([[1], [2], [3]], [1, 0, 1])
    assert (held_out.tolist(), held_y.tolist()) == ([[5]], [0])


def test_large_offsets_keep_their_digits(tmp_path):
    rows = np.arange(10.0)
    np.savez(tmp_path / "t.npz", x=np.stack([1e9 + rows, np.full(10, 7.0)], 1), y=np.arange(10) % 2)
    x, _ = whole(built(name="table", path=str(tmp_path / "t.npz"), batch_size=1).train_eval_batches())
    assert len(set(x[:, 0].tolist())) == 8 and abs(x[:, 0].var(correction=0) - 1) < 1e-5
    assert (x[:, 1] == 0).all()


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("", {}, "has no rows of data"),
        ("a,b\n", {}, "has no rows of data"),
        ("x,y\n1,a\noops,b\n", {}, r"t\.csv:3: column 'x': got 'oops', expected a finite number"),
        ("x,y\n1,a\n,b\n", {}, r"t\.csv:3: column 'x': got '', expected a finite number"),
        ("x,y\n1,a\nnan,b\n", {}, r"t\.csv:3: column 'x': got 'nan', expected a finite number"),
        ("x,y\n1,a\n1,2,b\n", {}, r"t\.csv:3: got 3 cells, expected 2 separated by ','"),
        ("x;y\n1;a\n", {}, "has one column separated by ','"),
        ("x,y\n1,a\n2,a\n", {}, "the target holds only 'a', expected at least two classes"),
        ("x,y\n1,0.5\n2,1\n", {}, "the target holds 0.5, expected classes"),
        (
            "x,kind\n1,a\n2,b\n",
            {"target": "kid"},
            r"data.target 'kid', but the file has columns x, kind; did you mean 'kind'",
        ),
        ("1,a\n2,b\n", {"target": "kind"}, "the file has no header; give its number"),
        ("1,a\n2,b\n", {"target": 2}, r"data.target 2, expected a column of -2 ... 1"),
        ('x,y\n"1,a\n', {}, "cannot be read as a table of text"),
        ("x,y\n1,\udcff\n", {}, "cannot be read as a table of text"),
    ],
)
def test_a_table_that_cannot_be_read_says_where(tmp_path, text, options, says):
    (tmp_path / "t.csv").write_text(text, errors="surrogateescape")
    with pytest.raises(ValueError, match=says) as caught:
        built(name="table", path=str(tmp_path / "t.csv"), **options)
    assert "t.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": np.zeros((3, 2))}, "has no array 'y'"),
        ({"x": np.zeros(3), "y": np.zeros(3)}, r"got x float64 \[3\] and y \[3\]"),
        ({"x": np.zeros((3, 2)), "y": np.zeros(4)}, r"got x float64 \[3, 2\] and y \[4\]"),
        ({"x": np.array([[1.0], [np.inf]]), "y": np.arange(2)}, r"x\[1, 0\] is inf, expected a finite number"),
        ({"x": np.array([[{}]]), "y": np.arange(1)}, "cannot be read as .npz"),
        (b"PK\x03\x04 rubbish", "cannot be read as .npz"),
        (b"\x93NUMPY", "cannot be read as .npz"),
        (b"", "cannot be read as .npz"),
    ],
)
def test_an_npz_that_does_not_fit_says_why(tmp_path, arrays, says):
    path = tmp_path / "t.npz"
    path.write_bytes(arrays) if isinstance(arrays, bytes) else np.savez(path, **arrays)
    with pytest.raises(ValueError, match=says) as caught:
        built(name="table", path=str(path))
    assert str(path) in str(caught.value)


def test_tables_of_different_width_and_missing_tables_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("1,2,a\n3,4,b\n")
    (tmp_path / "b.csv").write_text("1,a\n")
    with pytest.raises(ValueError, match=r"b\.csv has 1 features, expected 2 as in"):
        built(name="table", path=str(tmp_path / "a.csv"), test_path=str(tmp_path / "b.csv"))
    with pytest.raises(ValueError, match=r"table: found no file .*c\.csv .*set data.path"):
        built(name="table", path=str(tmp_path / "c.csv"))
