"""`gosgd doctor`: what is in order, what is broken, and that it gives nothing away."""

import getpass
import json
import resource
import socket
from pathlib import Path

import pytest
from support.hosts import why_no_nixl
from support.probing import Prober
from support.remote import ask_all, in_process_of_its_own, reaped

from launch import doctor, doctor_checks, doctor_trial
from launch.cli import main
from launch.doctor_checks import OURS, Finding


def test_a_machine_in_order_exchanges_between_two_processes_and_gives_nothing_away(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GOSGD_SECRET", "never to be seen")
    monkeypatch.setattr(getpass, "getuser", lambda: "marianne")
    monkeypatch.setattr(Path, "home", classmethod(lambda cls: Path(doctor_checks.__file__).parent.parent))
    code = main(["doctor", "--json"])
    text = capsys.readouterr().out
    told = json.loads(text)
    findings = {(one["section"], one["name"]): one for one in told["findings"]}
    assert (code, told["in_order"]) == (0, True), [one for one in told["findings"] if one["broken"]]
    assert "all whole, mass balanced" in findings["two processes", "gossip"]["value"]
    assert "one average over" in findings["two processes", "collective"]["value"]
    assert findings["package names", "gossip"]["value"] == "~/gossip"
    assert findings["machine", "settings"]["value"].endswith("GOSGD_SECRET is set")
    assert "never to be seen" not in text
    assert "marianne" not in text
    assert socket.gethostname() in ("localhost", "root") or socket.gethostname() not in text.split()


@pytest.mark.skipif(bool(why_no_nixl()), reason=why_no_nixl())
def test_a_process_that_has_read_the_others_memory_answers_the_other_which_is_late(tmp_path):
    with reaped([in_process_of_its_own(Prober, tmp_path, rank, rank == 0) for rank in range(2)]) as probers:
        for prober in probers:
            prober.answer()
        assert [found["wrong"] for found in ask_all(probers, "probe")] == [None, None]


def test_processes_that_take_too_long_are_killed_and_called_broken():
    trial = doctor_trial.attempt(0.05)
    findings = list(doctor_checks.exchange(trial))
    assert findings[0].name == "gossip"
    assert "not tried" in findings[0].value or findings[0].broken
    assert [one for one in findings if one.broken or "not tried" in one.value] == findings


def test_a_missing_place_for_shared_memory_is_broken_and_the_exit_code_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GOSGD_SHM_DIR", str(tmp_path / "nowhere"))
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "! where" in said
    assert "-> set GOSGD_SHM_DIR" in said
    assert said.splitlines()[-1] == "broken: shared memory: where, two processes: gossip"


@pytest.mark.parametrize(("order", "broken"), [(["theirs", "ours"], True), (["ours", "theirs"], False)])
def test_a_package_of_the_same_name_is_found_where_it_hides_ours(tmp_path, monkeypatch, order, broken):
    monkeypatch.chdir(tmp_path)
    for folder in ("ours", "theirs"):
        for name in OURS if folder == "ours" else ("gossip",):
            (tmp_path / folder / name).mkdir(parents=True)
            (tmp_path / folder / name / "__init__.py").touch()
    path = [str(tmp_path / folder) for folder in order]
    found = {one.name: one for one in doctor_checks.shadows(path, tmp_path / "ours")}
    assert found["gossip"].broken == broken
    assert str(tmp_path / "theirs/gossip") in found["gossip"].value
    assert not found["configs"].broken


def test_an_editable_installation_which_no_path_shows_is_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = {one.name: one for one in doctor_checks.shadows([str(tmp_path)])}
    assert not any(one.broken for one in found.values())


def test_a_folder_that_torchrun_would_find_first_is_named(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    home = Path(doctor_checks.__file__).parent.parent
    found = {one.name: one for one in doctor_checks.shadows([str(home)], home)}
    assert found["configs"].broken
    assert "under torchrun" in found["configs"].value
    assert not found["gossip"].broken


def test_a_library_that_is_missing_or_too_old_is_broken(monkeypatch):
    monkeypatch.setattr(doctor_checks, "_installed", lambda name: {"torch": "2.1.0", "numpy": None}.get(name, "99"))
    found = {one.name: one for one in doctor_checks.versions()}
    assert found["torch"].broken
    assert found["torch"].value == "2.1.0, expected >=2.10"
    assert found["numpy"].advice.startswith("pip install 'numpy")
    assert not found["pyyaml"].broken


@pytest.mark.parametrize(
    ("up", "limit", "broken", "said"),
    [
        (False, 2**16, False, "over TCP"),
        (True, resource.RLIM_INFINITY, False, "a device is up"),
        (True, 2**16, True, "only 65.5 kB can be locked"),
    ],
)
def test_rdma_needs_memory_that_can_be_locked(monkeypatch, up, limit, broken, said):
    monkeypatch.setattr(doctor_checks, "rdma", lambda: up)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limit, limit))
    found = {one.name: one for one in doctor_checks.devices()}["RDMA"]
    assert (found.broken, said in found.value) == (broken, True), found.value


def test_what_keeps_a_section_from_being_looked_at_is_found_and_the_others_are_looked_at(monkeypatch):
    def fail() -> bool:
        raise RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA")

    monkeypatch.setattr(doctor_checks, "rdma", fail)
    monkeypatch.setattr(doctor_checks, "attempt", lambda timeout_s: doctor_trial.Trial({}))
    found = [*doctor_checks.everything(1.0)]
    (broken,) = [one for one in found if one.broken and one.section == "devices"]
    assert (broken.name, broken.value) == ("the rest", "not looked at: RuntimeError: CUDA error: out of memory")
    assert {one.section for one in found} >= {"devices", "shared memory", "package names"}


@pytest.mark.parametrize("home", ["/", "/home/al", None])
def test_only_the_home_directory_itself_is_hidden(monkeypatch, home):
    """That of a container's user may be the root of all, or none at all: no name, no HOME."""
    if home is None:
        monkeypatch.delenv("HOME")
        monkeypatch.setattr("pwd.getpwuid", lambda number: {}[number])
    else:
        monkeypatch.setenv("HOME", home)
    monkeypatch.setattr(getpass, "getuser", lambda: "")
    hidden = "~/x" if home == "/home/al" else "/home/al/x"
    assert doctor.anonymous("/home/al/x /home/alice /dev/shm") == f"{hidden} /home/alice /dev/shm"


def test_broken_things_are_marked_and_come_with_advice():
    text = doctor.text([Finding("a", "one", "fine"), Finding("a", "two", "bad", True, "mend it")])
    assert text.splitlines() == [
        "a",
        "  one                  fine",
        "! two                  bad",
        "                       -> mend it",
        "",
        "broken: a: two",
    ]
