"""Checkpoints: exact, whole or absent, read without executing anything; and which one a worker goes on from."""

import hashlib
import json
import math
import os
import random
import subprocess
import sys
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import nn

from trainers.checkpoint_file import About, check, peek, read, write
from trainers.checkpoints import KEPT, Checkpoints, Common, common

ABOUT = About(
    step=0,
    worker=0,
    workers=3,
    incarnation=1,
    job=0,
    method="gosgd",
    optimizer="sgd",
    fingerprint=2**62 + 1,
    dimension=64,
    packages={"torch": torch.__version__},
)
NAMES = (
    "float64 float32 float16 bfloat16 float8_e4m3fn float8_e5m2 int64 int32 int16 int8 uint8 uint16 uint32 uint64 bool"
)
DTYPES = [getattr(torch, name) for name in [*NAMES.split(), "complex64", "complex128"]]


def state(value: float = 0.0) -> dict:
    return {"vector": torch.full((64,), value)}


def save(folder, worker: int, step: int, value: float | None = None, **about) -> bool:
    """By a worker of three whose methods go on alone, unless `about` says otherwise."""
    together = about.pop("together", 0)
    said = replace(ABOUT, worker=worker, step=step, **about)
    return Checkpoints(folder, worker, together).save(said, state(worker if value is None else value))


def path_of(folder, worker: int, step: int):
    return folder / f"worker-{worker}" / f"step-{step:09d}.safetensors"


def steps(folder, worker: int) -> list[int]:
    return sorted(int(path.stem[5:]) for path in (folder / f"worker-{worker}").iterdir())


def same(one, other) -> bool:
    """Whether two values are of the same types and equal to the bit."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        bits = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other)]
        laid = [tensor.is_contiguous() for tensor in (one, other)]
        return (one.dtype, one.shape) == (other.dtype, other.shape) and laid[0] == laid[1] and torch.equal(*bits)
    if isinstance(one, dict):
        pairs = list(zip(one.items(), other.items(), strict=len(one) == len(other)))
        return len(one) == len(other) and all(same(a, c) and same(b, d) for (a, b), (c, d) in pairs)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float):
        return math.isnan(one) == math.isnan(other) and (math.isnan(one) or one.hex() == other.hex())
    return one == other


def through_a_file(folder, what):
    write(folder / "one.safetensors", ABOUT, state() | {"what": what})
    about, got = read(folder / "one.safetensors")
    assert about == ABOUT
    return got["what"]


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(2**200), max_value=2**200)
    | st.floats()
    | st.text()
    | st.binary(),
    lambda inside: (
        st.lists(inside, max_size=4)
        | st.tuples(inside, inside)
        | st.dictionaries(
            st.text() | st.integers() | st.none() | st.tuples(st.booleans(), st.floats(allow_nan=False)),
            inside,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(what=PLAIN)
@settings(max_examples=60)
def test_plain_values_come_back_with_their_types(tmp_path_factory, what):
    assert same(through_a_file(tmp_path_factory.getbasetemp(), what), what)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_of_every_dtype_come_back_to_the_bit(tmp_path, dtype):
    generator = torch.Generator().manual_seed(0)
    size = 24 * torch.empty(0, dtype=dtype).element_size()
    some = torch.randint(0, 2 if dtype == torch.bool else 256, (size,), dtype=torch.uint8, generator=generator)
    tensor = some.view(dtype).reshape(2, 3, 4)
    what = [tensor, tensor[0, 0, 0].clone(), tensor[:, :0].clone(), tensor.clone()]
    assert same(through_a_file(tmp_path, what), what)


def test_the_state_of_optimizers_modules_and_generators_comes_back(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).to(memory_format=torch.channels_last)
    optimizers = [torch.optim.SGD(model.parameters(), 0.1, momentum=0.9), torch.optim.Adam(model.parameters())]
    model(torch.randn(2, 1, 5, 5)).square().sum().backward()
    for optimizer in optimizers:
        optimizer.step()
    own = random.Random(3)
    own.gauss(0, 1)
    what = {
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "model": model.state_dict(),
        "python": own.getstate(),
        "torch": torch.get_rng_state(),
        "keys": {0: torch.ones(1), "0": torch.zeros(1), "a.b": torch.ones(2), "a": {"b": torch.zeros(2)}},
        "size": torch.Size([2, 3]),
        "laid out": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "conjugated": torch.randn(3, dtype=torch.complex64).conj(),
        "__metadata__": torch.ones(1),
    }
    got = through_a_file(tmp_path, what)
    what["conjugated"] = what["conjugated"].resolve_conj()
    assert same(got, what)
    assert type(got["model"]) is OrderedDict
    assert got["model"]._metadata == what["model"]._metadata
    again = random.Random()
    again.setstate(got["python"])
    assert again.random() == own.random()


def test_a_checkpoint_is_a_safetensors_file_that_says_what_it_is(tmp_path):
    path = tmp_path / "worker-0" / "one.safetensors"
    write(path, ABOUT, {"vector": torch.arange(64.0), "local": {"optimizer": {0: torch.ones(2)}}})
    with safe_open(path, "pt") as file:
        told = file.metadata()
        assert set(file.keys()) == {"vector", "local.optimizer.0"}
        assert torch.equal(file.get_tensor("vector"), torch.arange(64.0))
    assert (told["format"], told["method"], told["workers"]) == ("gosgd checkpoint 1", "gosgd", "3")
    content = path.read_bytes()
    assert told["sha256"] == hashlib.sha256(content.replace(told["sha256"].encode(), b"0" * 64)).hexdigest()
    assert json.loads(told["packages"])["torch"] == torch.__version__
    assert check(path) == peek(path) == ABOUT
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_what_no_checkpoint_can_hold_is_named_and_costs_that_checkpoint_only(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path, 0)
    assert checkpoints.save(replace(ABOUT, step=1), state())
    bad = state() | {"local": {"seen": {1, 2}}}
    assert not checkpoints.save(replace(ABOUT, step=2), bad)
    assert "got builtins.set in local.seen, expected None, bool, int" in caplog.text
    deep: list = []
    for _ in range(200):
        deep = [deep]
    assert not checkpoints.save(replace(ABOUT, step=3), state() | {"deep": deep})
    assert not checkpoints.save(replace(ABOUT, step=4), state() | {"sparse": torch.eye(3).to_sparse()})
    assert (steps(tmp_path, 0), checkpoints.failures, checkpoints.saved) == ([1], 3, 1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "one.safetensors"
    optimizer = {"state": {0: {"momentum_buffer": torch.randn(8, dtype=torch.bfloat16)}}, "betas": (0.9, 0.999)}
    write(path, ABOUT, state(1) | {"local": optimizer, "complex": torch.randn(3, dtype=torch.complex128)})
    return path.read_bytes()


def refused(folder, content: bytes) -> str:
    path = folder / "bad.safetensors"
    path.write_bytes(content)
    said = []
    for how in (read, check):
        with pytest.raises(ValueError, match=r"bad\.safetensors: ") as error:
            how(path)
        said.append(str(error.value))
    return said[0]


@given(data=st.data())
@settings(max_examples=150)
def test_no_damage_goes_unnoticed(tmp_path_factory, whole, data):
    """Random bytes, bytes cut off or added, bits flipped anywhere in the file."""
    kind = data.draw(st.sampled_from(["random", "cut", "added", "flipped", "header of random length"]))
    if kind == "random":
        content = data.draw(st.binary(max_size=300))
    elif kind == "cut":
        content = whole[: data.draw(st.integers(0, len(whole) - 1))]
    elif kind == "added":
        content = whole + data.draw(st.binary(min_size=1, max_size=20))
    elif kind == "flipped":
        spoiled = bytearray(whole)
        for _ in range(data.draw(st.integers(1, 3))):
            spoiled[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        content = bytes(spoiled)
    else:
        content = data.draw(st.integers(0, 2**64 - 1)).to_bytes(8, "little") + whole[8:]
    if content != whole:
        refused(tmp_path_factory.getbasetemp(), content)


def forged(told: dict, table: dict, data: bytes = b"") -> bytes:
    """A file with a right checksum and anything in it."""
    rest = json.dumps(told | {"format": told.get("format", "gosgd checkpoint 1")})[1:-1]
    tensors = json.dumps(table)[1:]
    header = f'{{"__metadata__":{{"sha256":"{"0" * 64}",{rest}}}{"," if table else ""}{tensors}'.encode()
    content = len(header).to_bytes(8, "little") + header + data
    return content.replace(b"0" * 64, hashlib.sha256(content).hexdigest().encode(), 1)


TOLD = {name: json.dumps(value) for name, value in vars(ABOUT).items() if not isinstance(value, str)}
TOLD |= {"method": "gosgd", "optimizer": "sgd", "other_dtypes": "{}", "dimension": "4"}
VECTOR = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
PAIR = '["vector", {"tensor": "vector"}]'


def test_the_forger_of_these_tests_can_write_a_good_one(tmp_path):
    path = tmp_path / "good.safetensors"
    path.write_bytes(forged(TOLD | {"skeleton": f'{{"dict": [{PAIR}]}}'}, {"vector": VECTOR}, bytes(16)))
    about, got = read(path)
    assert (about.dimension, list(got)) == (4, ["vector"])


@pytest.mark.parametrize(
    ("told", "entry", "data"),
    [
        ({"skeleton": "[" * 50_000 + "]" * 50_000}, {}, 16),
        ({"skeleton": f'{{"dict": [{PAIR}, ["x", {"[" * 500 + "]" * 500}]]}}'}, {}, 16),
        ({"skeleton": f'{{"dict": [{PAIR}, [[], 1]]}}'}, {}, 16),
        ({"skeleton": f'{{"dict": [{PAIR}, ["x", {{"call": "os.system"}}]]}}'}, {}, 16),
        ({"skeleton": f'{{"dict": [{PAIR}, ["x", {{"tensor": "other"}}]]}}'}, {}, 16),
        ({"skeleton": f'{{"dict": [{PAIR}, ["x", {"9" * 100_000}]]}}'}, {}, 16),
        ({"skeleton": "7"}, {}, 16),
        ({"skeleton": '{"dict": []}'}, {}, 16),
        ({"skeleton": "not JSON"}, {}, 16),
        ({"step": "-1"}, {}, 16),
        ({"step": '"1"'}, {}, 16),
        ({"packages": "[]"}, {}, 16),
        ({"format": "gosgd checkpoint 2"}, {}, 16),
        ({"dimension": "5"}, {}, 16),
        ({"other_dtypes": '{"vector": ["_dynamo", [4]]}'}, {}, 16),
        ({"other_dtypes": '{"vector": ["float32", [9223372036854775807, 4]]}'}, {}, 16),
        ({}, {"shape": [2**62]}, 16),
        ({}, {"shape": [-4]}, 16),
        ({}, {"shape": [2.0, 2]}, 16),
        ({}, {"dtype": "F64"}, 16),
        ({}, {"dtype": "X"}, 16),
        ({}, {"data_offsets": [0, 2**60]}, 16),
        ({}, {"data_offsets": [-16, 0]}, 16),
        ({}, {"data_offsets": [0]}, 16),
        ({}, {}, 17),
        ({}, {}, 15),
        ({}, {}, 0),
    ],
)
def test_a_hostile_file_with_a_right_checksum_is_a_clear_error(tmp_path, told, entry, data):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(
        forged(TOLD | {"skeleton": f'{{"dict": [{PAIR}]}}'} | told, {"vector": VECTOR | entry}, bytes(data))
    )
    with pytest.raises(ValueError, match=r"bad\.safetensors: "):
        read(path)


class Bomb:
    def __reduce__(self):
        return os.system, ("exit 1",)


def test_neither_pickles_nor_pipes_nor_folders_are_read(tmp_path, caplog):
    folder = tmp_path / "worker-0"
    folder.mkdir()
    torch.save({"vector": Bomb()}, path_of(tmp_path, 0, 1))
    os.mkfifo(path_of(tmp_path, 0, 2))
    path_of(tmp_path, 0, 3).mkdir()
    path_of(tmp_path, 0, 4).symlink_to(tmp_path / "nowhere")
    assert Checkpoints(tmp_path, 0).newest() is None
    assert common(tmp_path, 1) is None
    assert all(str(path_of(tmp_path, 0, step)) in caplog.text for step in (1, 2, 3, 4))


def test_a_damaged_checkpoint_is_named_and_skipped(tmp_path, caplog):
    for step in (1, 2):
        save(tmp_path, 0, step, value=step)
    damaged = path_of(tmp_path, 0, 2)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\1")
    found = Checkpoints(tmp_path, 0).newest()
    assert found is not None
    assert (found[0].step, float(found[1]["vector"][0])) == (1, 1)
    assert f"{damaged}: its bytes are not those that were written" in caplog.text


def test_the_newest_few_are_kept_and_drafts_of_the_dead_are_removed(tmp_path):
    for step in (10, 20, 100):
        save(tmp_path, 1, step)
    (tmp_path / "worker-1" / ".step-000000110.safetensors.77").write_bytes(b"half")
    checkpoints = Checkpoints(tmp_path, 1)
    assert steps(tmp_path, 1) == [20, 100]
    assert len(steps(tmp_path, 1)) == KEPT
    found = checkpoints.newest()
    assert found is not None
    assert found[0].step == 100


def test_what_lies_beyond_the_newest_was_given_up_and_is_forgotten(tmp_path):
    for step in (10, 20):
        save(tmp_path, 0, step)
    save(tmp_path, 0, 15, job=1)
    assert steps(tmp_path, 0) == [10, 15]


def test_a_worker_goes_on_from_its_own_and_a_new_one_from_the_newest(tmp_path):
    for worker, step in ((0, 5), (2, 7), (10, 6)):
        save(tmp_path, worker, step)
    taken = {}
    for worker in (0, 2, 10, 11):
        found = Checkpoints(tmp_path, worker).newest()
        assert found is not None
        taken[worker] = (found[0].worker, found[0].step)
    assert taken == {0: (0, 5), 2: (2, 7), 10: (10, 6), 11: (2, 7)}


def test_what_a_worker_has_left_from_an_earlier_job_is_too_old_for_it(tmp_path):
    """Three workers, then two for a while, then three again."""
    for worker in (0, 1, 2):
        save(tmp_path, worker, 10)
    for worker in (0, 1):
        save(tmp_path, worker, 1000 + worker, job=1, workers=2)
    found = Checkpoints(tmp_path, 2).newest()
    assert found is not None
    assert (found[0].worker, found[0].step) == (1, 1001)


def test_workers_that_go_on_together_take_the_newest_complete_step(tmp_path, caplog):
    """The last of them was killed before it had saved what the others have."""
    for worker, last in ((0, 30), (1, 30), (2, 20)):
        for step in range(10, last + 1, 10):
            save(tmp_path, worker, step, together=3)
    assert common(tmp_path, 3) == Common(20, (0, 1, 2))
    damaged = path_of(tmp_path, 1, 20)
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert common(tmp_path, 3) == Common(10, (0, 1, 2))
    assert f"{damaged}: it is cut off" in caplog.text
    assert "no step of which each" not in caplog.text


def test_without_a_complete_step_they_take_the_newest_there_is(tmp_path, caplog):
    assert common(tmp_path, 2) is None
    for worker, step in ((0, 20), (1, 20), (2, 10)):
        save(tmp_path, worker, step)
    assert common(tmp_path, 3) == Common(20, (0, 1, 0))
    assert "from step 20, with the checkpoints of workers 0, 1" in caplog.text


@pytest.mark.parametrize("workers", [2, 5])
def test_another_number_of_workers_takes_the_newest_there_is(tmp_path, caplog, workers):
    for worker in (0, 1, 2):
        save(tmp_path, worker, 20)
    save(tmp_path, 2, 30)
    assert common(tmp_path, workers) == Common(30, (2,) * workers)
    assert "from step 30, with the checkpoints of workers 2" in caplog.text


def test_a_step_is_complete_only_if_one_job_made_it(tmp_path):
    """Worker 0 has something of step 30 from a course of the run that was given up."""
    for worker, step, job in ((0, 30, 0), (0, 20, 1), (1, 20, 1), (1, 30, 1)):
        write(path_of(tmp_path, worker, step), replace(ABOUT, worker=worker, step=step, job=job, workers=2), state())
    assert common(tmp_path, 2) == Common(20, (0, 1))


def test_a_complete_step_is_kept_however_far_a_worker_is_ahead(tmp_path):
    for step in (1, 2):
        for worker in (0, 1):
            save(tmp_path, worker, step, workers=2, together=2)
    for step in range(3, 45):
        save(tmp_path, 0, step, workers=2, together=2)
    assert steps(tmp_path, 0) == [1, 2, *range(13, 45)]
    assert common(tmp_path, 2) == Common(2, (0, 1))
    save(tmp_path, 1, 44, workers=2, together=2)
    assert steps(tmp_path, 1) == [2, 44]


def test_a_full_disk_keeps_the_last_good_checkpoint_and_training_goes_on(tmp_path):
    """The file-size limit of a process stands for a full disk: writes fail with an error in the middle."""
    program = """
import resource, signal, sys, torch
from pathlib import Path
from test_checkpoints import ABOUT, replace
from trainers.checkpoints import Checkpoints
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
checkpoints = Checkpoints(Path(sys.argv[1]), 0)
about = replace(ABOUT, dimension=100_000)
assert checkpoints.save(replace(ABOUT, step=1), {"vector": torch.zeros(64)})
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
for step in (2, 3):
    assert not checkpoints.save(replace(about, step=step), {"vector": torch.zeros(100_000)})
assert checkpoints.newest()[0].step == 1
print([path.name for path in (Path(sys.argv[1]) / "worker-0").iterdir()], checkpoints.failures)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert checkpoints.save(replace(about, step=4), {"vector": torch.zeros(100_000)})
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [os.path.dirname(__file__), *sys.path]))},  # noqa: PTH120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['step-000000001.safetensors'] 2"
    assert [done.stderr.count(f"checkpoint of step {step} not written, training goes on") for step in (2, 3)] == [1, 1]
    assert steps(tmp_path, 0) == [1, 4]
