"""A checkpoint's file: exact, whole or refused, and read without executing anything."""

import hashlib
import json
import math
import random
from collections import OrderedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from support.checkpointed import ABOUT, state
from torch import nn

from trainers.checkpoint_file import check, peek, read, write

NAMES = (
    "float64 float32 float16 bfloat16 float8_e4m3fn float8_e5m2 int64 int32 int16 int8 uint8 uint16 uint32 uint64 bool"
)
DTYPES = [getattr(torch, name) for name in [*NAMES.split(), "complex64", "complex128"]]


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
