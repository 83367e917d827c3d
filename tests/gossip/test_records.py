"""Records in a store that anybody can write to: only this job's own are believed."""

import os
import stat
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.remote import until
from torch.distributed import HashStore

from gossip.records import SECRET, Records, job_key, secret_file, sign, verify

pytestmark = pytest.mark.timeout(60)

JOB = {SECRET: "a secret of some length", "TORCHELASTIC_RUN_ID": "1", "MASTER_ADDR": "here", "MASTER_PORT": "29500"}
KEY = job_key(JOB)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.text(), json_values)
def test_a_record_is_read_as_it_was_written(name, value):
    assert verify(KEY, name, sign(KEY, name, value)) == value


@given(st.binary(max_size=200))
def test_bytes_of_no_job_are_refused(record):
    with pytest.raises(ValueError, match="wrong signature"):
        verify(KEY, "directory", record)


@given(st.text(max_size=20), st.integers(0), st.integers(1, 255))
def test_a_record_with_any_byte_changed_is_refused(value, place, change):
    record = bytearray(sign(KEY, "directory", value))
    record[place % len(record)] ^= change
    with pytest.raises(ValueError, match="wrong signature"):
        verify(KEY, "directory", bytes(record))


@pytest.mark.parametrize(
    "other",
    [{SECRET: "another secret, also long"}, {"TORCHELASTIC_RUN_ID": "2"}, {"MASTER_PORT": "29501"}],
    ids=lambda other: next(iter(other)),
)
def test_a_record_of_another_job_is_refused(other):
    with pytest.raises(ValueError, match="wrong signature"):
        verify(KEY, "directory", sign(job_key({**JOB, **other}), "directory", "/there"))


def test_a_record_is_good_for_its_own_name_only():
    with pytest.raises(ValueError, match="wrong signature"):
        verify(KEY, "0/directory", sign(KEY, "1/directory", "/there"))


def test_a_forged_record_is_ignored_and_logged_until_the_true_one_is_there(caplog):
    store = HashStore()
    mine = Records(store, KEY)
    store.set("directory", b'forged\n"/evil"')

    def put_once_the_forged_one_was_seen():
        until(lambda: caplog.records)
        mine.put("directory", "/dev/shm/mine")

    later = threading.Thread(target=put_once_the_forged_one_was_seen)
    later.start()
    assert mine.get("directory", 30.0) == "/dev/shm/mine"
    later.join()
    assert [record.message for record in caplog.records] == [
        "store: record 'directory' is ignored: got a record with a wrong signature, expected one of this job"
    ]


@pytest.mark.parametrize(
    ("found", "complaint"), [(None, "none was written"), (b"forged", "signed by somebody else; expected all workers")]
)
def test_waiting_for_a_record_ends(found, complaint):
    store = HashStore()
    if found:
        store.set("directory", found)
    with pytest.raises(TimeoutError, match=complaint):
        Records(store, KEY).get("directory", 0.2)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.delenv(SECRET, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    before = os.umask(0)
    yield tmp_path
    os.umask(before)


def test_without_one_given_a_secret_is_made_that_only_the_user_can_read(home):
    first = job_key({})
    assert job_key({}) == first
    assert stat.S_IMODE(secret_file().stat().st_mode) == 0o600
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in secret_file().parents[:2]} == {0o700}
    assert [path.name for path in secret_file().parent.iterdir()] == ["secret"]


def test_many_that_come_first_at_once_have_the_same_secret(home):
    keys = []
    threads = [threading.Thread(target=lambda: keys.append(job_key({}))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 8
    assert len(set(keys)) == 1


def test_a_secret_that_others_may_have_read_or_put_there_is_refused(home, monkeypatch):
    job_key({})
    secret_file().chmod(0o640)
    with pytest.raises(ValueError, match=r"others can read.*expected a file of this user's with mode 0600"):
        job_key({})
    secret_file().rename(home / "elsewhere")
    secret_file().symlink_to(home / "elsewhere")
    with pytest.raises(ValueError, match=f"cannot be made or read.*set {SECRET} instead"):
        job_key({})
    secret_file().unlink()
    secret_file().touch(mode=0o600)
    with pytest.raises(ValueError, match="or which holds no secret"):
        job_key({})
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/nowhere")
    with pytest.raises(ValueError, match=f"set {SECRET} instead"):
        job_key({})
    with pytest.raises(ValueError, match=f"got {SECRET} with 5 characters, expected at least 16"):
        job_key({SECRET: "short"})
