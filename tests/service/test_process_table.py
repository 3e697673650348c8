"""Who is provably dead: real processes, and a `/proc` of a test's own for what cannot be had everywhere."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from execution_service.ownership.process_table import ProcessTable
from execution_service.storage.ports.leases import ProcessIdentity

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells by /proc what the proof needs")
IN_A_NAMESPACE = ("unshare", "--user", "--map-root-user", "--pid", "--fork")
SAYS_ITS_IDENTITY = (
    "import json, dataclasses;"
    "from execution_service.ownership.process_table import ProcessTable;"
    "own = ProcessTable().own;"
    "print(json.dumps(own and dataclasses.asdict(own)), flush=True);"
    "input()"
)
PLACE = {"boot_id": "boot-1", "pid_namespace": "pid:[4026531836]", "time_namespace": "time:[4026531834]"}


# --- real processes -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def another_process(*before: str) -> Iterator[tuple[subprocess.Popen[str], ProcessIdentity | None]]:
    """A process that says who it is and then waits; ended and reaped afterwards."""
    process = subprocess.Popen(
        [*before, sys.executable, "-c", SAYS_ITS_IDENTITY],
        cwd=Path(__file__).resolve().parent.parent.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process, _identity(process.stdout.readline())
    finally:
        process.stdin.close()
        process.stdout.close()
        process.kill()
        process.wait()


def _identity(line: str) -> ProcessIdentity | None:
    found = json.loads(line or "null")
    return None if found is None else ProcessIdentity(**found)


@linux_only
def test_a_process_that_was_killed_is_gone_already_as_a_zombie_and_when_its_parent_has_taken_note() -> None:
    table = ProcessTable()
    with another_process() as (process, identity):
        assert identity is not None
        assert not table.is_gone(identity)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie now, and it stays one
        assert table.is_gone(identity)
        process.wait()
        assert table.is_gone(identity)


@linux_only
def test_a_process_that_is_stopped_is_alive() -> None:
    table = ProcessTable()
    with another_process() as (process, identity):
        assert identity is not None
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        assert not table.is_gone(identity)


@linux_only
def test_a_process_whose_first_thread_has_ended_is_alive_while_another_runs() -> None:
    thread_stays = (
        "import ctypes, threading, sys;"
        "threading.Thread(target=sys.stdin.read).start();"
        "print('begun', flush=True);"
        "ctypes.CDLL(None).pthread_exit(None)"
    )
    process = subprocess.Popen([sys.executable, "-c", thread_stays], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        process.stdout.readline()
        stat = Path(f"/proc/{process.pid}/stat")
        while stat.read_text().rpartition(")")[2].split()[0] != "Z":
            assert process.poll() is None
        table = ProcessTable()
        own = table.own
        assert own is not None
        ticks = int(stat.read_text().rpartition(")")[2].split()[19])
        assert not table.is_gone(replace(own, pid=process.pid, start_ticks=ticks))
    finally:
        process.kill()
        process.communicate()


@linux_only
def test_this_process_is_alive_to_itself_and_another_of_its_number_was_an_earlier_one() -> None:
    table = ProcessTable()
    own = table.own
    assert own is not None
    assert not table.is_gone(own)
    assert table.is_gone(replace(own, start_ticks=own.start_ticks - 1))


@linux_only
@pytest.mark.parametrize("more", [("--mount-proc",), ()], ids=["its own /proc", "the /proc around it"])
def test_a_living_process_of_another_namespace_is_not_gone_though_its_number_is_nobodys_here(
    more: tuple[str, ...],
) -> None:
    if shutil.which("unshare") is None or subprocess.run([*IN_A_NAMESPACE, "true"], capture_output=True).returncode:
        pytest.skip("no namespaces may be made here")
    with another_process(*IN_A_NAMESPACE, *more) as (_, identity):
        if not more:
            assert identity is None, "its number means another process in the /proc that it sees"
            return
        assert identity is not None
        table = ProcessTable()
        own = table.own
        assert own is not None
        assert identity.boot_id == own.boot_id
        assert not table.is_gone(identity)
        nobodys = replace(identity, pid=2**22 + 1)  # more than the kernel gives
        assert not table.is_gone(nobodys)
        assert table.is_gone(replace(nobodys, pid_namespace=own.pid_namespace))


# --- a /proc of our own ---------------------------------------------------------------------------------------------


class Kernel:
    """A `/proc` in a folder, and who answers to a signal."""

    def __init__(self, folder: Path, *, numbers: str | None = None) -> None:
        self.proc = folder
        self.taken: dict[int, type[OSError] | None] = {}
        (folder / "sys/kernel/random").mkdir(parents=True)
        (folder / "sys/kernel/random/boot_id").write_text(PLACE["boot_id"] + "\n")
        (folder / "self/ns").mkdir(parents=True)
        (folder / "self/ns/pid").symlink_to(PLACE["pid_namespace"])
        (folder / "self/ns/time").symlink_to(PLACE["time_namespace"])
        self.say_numbers(str(os.getpid()) if numbers is None else numbers)
        self.run(os.getpid(), 500)

    def say_numbers(self, numbers: str) -> None:
        (self.proc / "self/status").write_text(f"Name:\tx\nNSpid:\t{numbers}\n")

    def run(self, pid: int, start_ticks: int, *, state: str = "S", threads: int = 4) -> None:
        self.taken[pid] = None
        (self.proc / str(pid)).mkdir(exist_ok=True)
        fields = [state, *["0"] * 16, str(threads), "0", str(start_ticks), "0"]
        (self.proc / str(pid) / "stat").write_text(f"{pid} (a ) b (c) Z 1) {' '.join(fields)}\n")

    def signal(self, pid: int, number: int) -> None:
        assert number == 0
        refusal = self.taken.get(pid, ProcessLookupError)
        if refusal is not None:
            raise refusal

    def table(self) -> ProcessTable:
        return ProcessTable(self.proc, self.signal)


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


def process(pid: int = 7, start_ticks: int = 100, **place: str) -> ProcessIdentity:
    return ProcessIdentity(**(PLACE | place), pid=pid, start_ticks=start_ticks)


def test_a_number_that_nobody_has_proves_the_death_of_who_had_it_here(kernel: Kernel) -> None:
    assert kernel.table().is_gone(process())


@pytest.mark.parametrize("name", sorted(PLACE))
def test_of_another_kernel_or_namespace_nothing_is_known(kernel: Kernel, name: str) -> None:
    assert not kernel.table().is_gone(process(**{name: "another"}))


def test_a_number_that_was_given_to_another_process_proves_it_too(kernel: Kernel) -> None:
    kernel.run(7, 100)
    assert not kernel.table().is_gone(process(7, 100))
    kernel.run(7, 101)
    assert kernel.table().is_gone(process(7, 100))


@pytest.mark.parametrize(
    ("state", "threads", "is_gone"),
    [
        ("R", 4, False),
        ("D", 4, False),
        ("T", 4, False),
        ("t", 4, False),
        ("Z", 1, True),
        ("Z", 2, False),
        ("X", 1, True),
    ],
)
def test_only_a_process_without_a_running_thread_is_gone(
    kernel: Kernel, state: str, threads: int, is_gone: bool
) -> None:
    kernel.run(7, 100, state=state, threads=threads)
    assert kernel.table().is_gone(process(7, 100)) is is_gone


def test_a_process_that_we_may_not_signal_is_looked_up_as_any_other(kernel: Kernel) -> None:
    kernel.run(7, 100)
    kernel.taken[7] = PermissionError
    assert not kernel.table().is_gone(process(7, 100))
    assert kernel.table().is_gone(process(7, 99))


def _hide(kernel: Kernel) -> None:
    (kernel.proc / "7/stat").unlink()


def _garble(kernel: Kernel) -> None:
    (kernel.proc / "7/stat").write_text("7 (x) S 1")


def _show_another_namespace(kernel: Kernel) -> None:
    kernel.say_numbers(f"4711 {os.getpid()}")
    kernel.run(7, 999)


@pytest.mark.parametrize("spoil", [_hide, _garble, _show_another_namespace], ids=lambda f: f.__name__.strip("_"))
def test_a_number_that_is_taken_and_cannot_be_looked_up_proves_nothing(
    kernel: Kernel, spoil: Callable[[Kernel], None]
) -> None:
    kernel.run(7, 100)
    table = kernel.table()
    spoil(kernel)
    assert not table.is_gone(process(7, 100))


@pytest.mark.parametrize("refusal", [PermissionError, OSError])
def test_a_question_that_the_kernel_refuses_proves_nothing(kernel: Kernel, refusal: type[OSError]) -> None:
    kernel.taken[7] = refusal
    assert not kernel.table().is_gone(process(7, 100))


@pytest.mark.parametrize(
    "missing",
    ["sys/kernel/random/boot_id", "self/ns/pid", "self/status", f"{os.getpid()}/stat"],
    ids=["boot", "pid namespace", "status", "own process"],
)
def test_who_cannot_say_who_it_is_proves_nothing_of_others(kernel: Kernel, missing: str) -> None:
    (kernel.proc / missing).unlink()
    assert kernel.table().own is None
    assert not kernel.table().is_gone(process())


def test_nothing_is_asked_of_a_system_without_proc(tmp_path: Path) -> None:
    def signal(pid: int, number: int) -> None:
        raise AssertionError("on another system this may end the process")

    table = ProcessTable(tmp_path / "none", signal)
    assert table.own is None
    assert not table.is_gone(process())


def test_a_proc_of_a_namespace_around_ours_proves_nothing(tmp_path: Path) -> None:
    assert Kernel(tmp_path, numbers=f"{os.getpid()} 7").table().own is None


def test_a_kernel_without_namespaces_of_time_has_one_clock(kernel: Kernel) -> None:
    (kernel.proc / "self/ns/time").unlink()
    own = kernel.table().own
    assert own is not None
    assert own.time_namespace == ""
    assert kernel.table().is_gone(process(time_namespace=""))
