"""The log: spec 004's lines, nothing forged, nothing leaked, and a disk, pipe or terminal in trouble that holds nobody up."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import os
import re
import resource
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from execution_service.app.log import Logging, silence, start_logging
from execution_service.app.log_lines import redact

REPOSITORY_ROOT = Path(__file__).resolve().parents[2]
LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \| \[EXECUTION\] \| ")
Start = Callable[..., Logging]


class Terminal(io.StringIO):
    """A console that can break, or hang until it is let go on."""

    def __init__(self) -> None:
        super().__init__()
        self.failure: Exception | None = None
        self.has_more = threading.Event()
        self.has_more.set()
        self.asked = threading.Event()

    def write(self, text: str) -> int:
        self.asked.set()
        self.has_more.wait(30)
        if self.failure is not None:
            raise self.failure
        return super().write(text)


@pytest.fixture
def console() -> Terminal:
    return Terminal()


@pytest.fixture
def log_dir(tmp_path: Path) -> Path:
    return tmp_path / "logs"


@pytest.fixture
def start(log_dir: Path, console: Terminal) -> Iterator[Start]:
    started: list[Logging] = []

    def starting(format: str = "text", level: str = "INFO", **more: Any) -> Logging:
        started.append(start_logging(log_dir, level, format, **({"stream": console} | more)))  # type: ignore[arg-type]
        return started[-1]

    yield starting
    console.has_more.set()
    for logging_ in started:
        logging_.stop()


def messages(text: str) -> list[str]:
    return [LINE.sub("", line, count=1) for line in text.splitlines() if LINE.match(line)]


def service_log(log_dir: Path) -> str:
    return (log_dir / "execution_service.log").read_text(encoding="utf-8")


def journey_log(log_dir: Path) -> str:
    return (log_dir / "signal_processing.log").read_text(encoding="utf-8")


def test_the_five_lines_of_the_specification_have_its_very_words(
    start: Start, log_dir: Path, console: Terminal
) -> None:
    running = start()
    log = structlog.get_logger("execution_service.trading.trader").bind(signal_id="sig_1732450800_5678")
    log.info("Received order: sig_1732450800_5678", action="order_received")
    log.info("Placing order: BUY 100 SPY MARKET", action="order_placing")
    log.info("Order submitted: ord_broker_12345", action="order_submitted")
    log.info("Order filled: 100 @ $235.15", action="order_filled")
    log.info("Published execution confirmation", action="confirmation_published")
    running.stop()
    expected = [
        "Received order: sig_1732450800_5678",
        "Placing order: BUY 100 SPY MARKET | sig_1732450800_5678",
        "Order submitted: ord_broker_12345 | sig_1732450800_5678",
        "Order filled: 100 @ $235.15 | sig_1732450800_5678",
        "Published execution confirmation | sig_1732450800_5678",
    ]
    assert messages(service_log(log_dir)) == messages(journey_log(log_dir)) == messages(console.getvalue()) == expected


def test_time_is_utc_whatever_the_time_zone(start: Start, log_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1732444210.9)
    running = start()
    structlog.get_logger().info("Now")
    running.stop()
    assert service_log(log_dir) == "2024-11-24 10:30:10 | [EXECUTION] | Now\n"


@pytest.mark.parametrize(
    ("message", "signal_id", "line"),
    [
        ("Order filled: 100", "1", "Order filled: 100 | 1"),
        ("Signal sig_1-b seen", "sig_1", "Signal sig_1-b seen | sig_1"),
        ("Signal sig_1 seen", "sig_1", "Signal sig_1 seen"),
        ("Received order: sig_1.", "sig_1", "Received order: sig_1."),
        ("Nothing known", "", "Nothing known"),
        ("Nothing known", None, "Nothing known"),
        ("Odd", "a+b(", "Odd | a+b("),
    ],
)
def test_line_ends_with_the_signal_that_it_does_not_name(
    start: Start, log_dir: Path, message: str, signal_id: str | None, line: str
) -> None:
    running = start()
    structlog.get_logger().info(message, signal_id=signal_id)
    running.stop()
    assert messages(service_log(log_dir)) == [line]


def test_journey_has_only_lines_of_signals_and_no_tracebacks(start: Start, log_dir: Path, console: Terminal) -> None:
    running = start()
    log = structlog.get_logger()
    log.info("Execution service ready")
    try:
        raise ValueError("gone")
    except ValueError:
        log.exception("Order lost", signal_id="s1")
    running.stop()
    assert messages(journey_log(log_dir)) == ["ERROR | Order lost | s1"]
    assert len(journey_log(log_dir).splitlines()) == 1
    for text in (service_log(log_dir), console.getvalue()):
        assert "    | ValueError: gone\n" in text
        assert "Execution service ready" in text


def test_stdlib_records_end_in_the_same_place(start: Start, log_dir: Path) -> None:
    running = start()
    logging.getLogger("some.library").warning("%s of %d", "one", 2)
    logging.getLogger("some.library").info("About a signal", extra={"signal_id": "s9"})
    running.stop()
    assert messages(service_log(log_dir)) == ["WARNING | one of 2", "About a signal | s9"]
    assert messages(journey_log(log_dir)) == ["About a signal | s9"]


def test_level_is_respected(start: Start, log_dir: Path) -> None:
    running = start(level="WARNING")
    structlog.get_logger().info("quiet")
    logging.getLogger("x").info("quiet")
    structlog.get_logger().warning("loud")
    running.stop()
    assert messages(service_log(log_dir)) == ["WARNING | loud"]


def test_unknown_level_is_refused(log_dir: Path) -> None:
    with pytest.raises(ValueError, match="LOUD"):
        start_logging(log_dir, "LOUD", "text")


@pytest.mark.parametrize(
    ("level", "heard"), [("INFO", ["x"]), ("DEBUG", ["asyncio", "google.auth", "pymongo.command", "x"])]
)
def test_libraries_are_quiet_and_http_clients_even_at_debug(
    start: Start, log_dir: Path, level: str, heard: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("google"), "propagate", False)  # as Google's own libraries set it
    running = start(format="json", level=level)
    for name in ("asyncio", "google.auth", "httpcore.connection", "httpx", "pymongo.command", "x"):
        logging.getLogger(name).info("https://api.telegram.org/bot1:x/getMe")
    running.stop()
    assert [json.loads(line)["logger"] for line in service_log(log_dir).splitlines()] == heard


def test_json_has_one_object_a_line(start: Start, log_dir: Path) -> None:
    running = start(format="json")
    structlog.get_logger("execution_service.trading.trader").info(
        "Order filled: 100 @ ₹235.15",
        action="order_filled",
        signal_id="s1",
        quantity=100,
        time="mine",
        folder=Path("/x"),
    )
    structlog.get_logger().error("Bad\nluck\u2028\u202e", exc_info=ValueError("a\nb"))
    structlog.get_logger().info("odd", ratio=float("nan"))
    structlog.get_logger().info("odder", table={(1, 2): 3})
    running.stop()
    first, second, third, fourth = map(json.loads, service_log(log_dir).splitlines())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first.pop("time"))
    assert first == {
        "level": "INFO",
        "message": "Order filled: 100 @ ₹235.15",
        "action": "order_filled",
        "signal_id": "s1",
        "logger": "execution_service.trading.trader",
        "quantity": 100,
        "time_": "mine",
        "folder": "/x",
    }
    assert (second["message"], second["traceback"]) == ("Bad\nluck\u2028\u202e", "ValueError: a\nb")
    assert (third["ratio"], fourth["table"]) == ("nan", "{(1, 2): 3}")
    assert "\u202e" not in service_log(log_dir)


NASTY = st.text(
    alphabet=st.characters() | st.sampled_from("\n\r\x0b\x0c\x1b\x85\u2028\u2029\u202e\u2066\u200b\ufeff\ud800|[]0"),
    max_size=80,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(message=NASTY, signal_id=NASTY, failure=NASTY, format=st.sampled_from(["text", "json"]))
def test_no_value_can_forge_hide_or_break_a_line(
    tmp_path: Path, message: str, signal_id: str, failure: str, format: str
) -> None:
    forged = "\n2024-11-24 10:30:10 | [EXECUTION] | Order filled: forged"
    folder = tmp_path / "forging"
    for old in folder.glob("*"):
        old.unlink()
    running = start_logging(folder, "INFO", format, stream=io.StringIO())  # type: ignore[arg-type]
    try:
        raise ValueError(failure + forged)
    except ValueError:
        structlog.get_logger().exception(message + forged, signal_id=signal_id + forged)
    running.stop()
    for name in ("execution_service.log", "signal_processing.log"):
        text = (folder / name).read_bytes().decode("utf-8")
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]", text)
        lines = text.removesuffix("\n").split("\n")
        assert sum(line.startswith(("{", "2")) for line in lines) == 1
        assert all(line.startswith("    | ") for line in lines[1:])


def test_very_long_message_is_shortened(start: Start, log_dir: Path) -> None:
    running = start()
    structlog.get_logger().info("x" * 1_000_000)
    running.stop()
    assert len(service_log(log_dir)) < 21_000
    assert "(980000 more characters)" in service_log(log_dir)


@pytest.mark.parametrize("format", ["text", "json"])
def test_registered_secrets_appear_nowhere(start: Start, log_dir: Path, console: Terminal, format: str) -> None:
    redact("123456:AAxyz-token", 'quo"te\\secret', "p@ss/word", "abc")
    running = start(format=format)
    log = structlog.get_logger()
    log.info(
        'said 123456:AAxyz-token and quo"te\\secret', signal_id="s-123456:AAxyz-token", other={"deep": "p@ss/word"}
    )
    logging.getLogger("x").error("https://host/bot%s/send", "123456%3AAAxyz-token")
    log.info("x" * 19_995 + "123456:AAxyz-token")
    log.info("abc is too short to be a secret")
    try:
        raise ValueError({"key": 'quo"te\\secret'}, "mongodb://u:p%40ss%2Fword@h")
    except ValueError:
        log.exception("Failed")
    running.stop()
    everything = service_log(log_dir) + journey_log(log_dir) + console.getvalue()
    for piece in ("AAxyz", "te\\", "p@ss", "p%40ss", "123456:"):
        assert piece not in everything
    assert "abc is too short" in everything


def test_value_that_cannot_be_shown_does_not_end_the_log(
    start: Start, log_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The test runner's own handlers would raise what ours must not.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])

    class Unshowable:
        def __str__(self) -> str:
            raise RuntimeError("no")

        __repr__ = __str__

    running = start(format="json")
    structlog.get_logger().info("before", value=Unshowable())
    logging.getLogger("x").warning("%d", "no number")
    structlog.get_logger().info("after")
    running.stop()
    told = [json.loads(line)["message"] for line in service_log(log_dir).splitlines()]
    assert told == [
        "A log record could not be shown: RuntimeError",
        "A log record could not be shown: TypeError",
        "after",
    ]


def test_files_are_for_their_owner_only(start: Start, log_dir: Path) -> None:
    log_dir.mkdir(mode=0o755)
    (log_dir / "signal_processing.log").touch(mode=0o644)
    running = start()
    structlog.get_logger().info("x", signal_id="s")
    running.stop()
    assert stat.S_IMODE(log_dir.stat().st_mode) == 0o755
    assert [stat.S_IMODE(path.stat().st_mode) for path in log_dir.iterdir()] == [0o600, 0o600]


def test_folder_that_we_make_is_for_its_owner_only(start: Start, log_dir: Path) -> None:
    running = start()
    structlog.get_logger().info("x")
    running.stop()
    assert stat.S_IMODE(log_dir.stat().st_mode) == 0o700


def test_full_file_is_begun_anew_and_the_newest_old_ones_are_kept(start: Start, log_dir: Path) -> None:
    running = start(max_file_bytes=200, kept_files=2)
    for number in range(12):
        structlog.get_logger().info(f"line {number:02} " + "x" * 100)
        assert running.flush()
    names = sorted(path.name for path in log_dir.glob("execution_service*"))
    assert names == ["execution_service.log", "execution_service.log.1", "execution_service.log.2"]
    for name, line in zip(names, ("line 11", "line 10", "line 09"), strict=True):
        assert messages((log_dir / name).read_text())[0].startswith(line)
    assert all(path.stat().st_size <= 200 for path in log_dir.iterdir())


def test_file_that_was_moved_or_deleted_is_opened_again(start: Start, log_dir: Path) -> None:
    running = start()
    log = structlog.get_logger()
    log.info("one")
    assert running.flush()
    (log_dir / "execution_service.log").rename(log_dir / "moved")
    log.info("two")
    assert running.flush()
    assert messages((log_dir / "moved").read_text()) == ["one"]
    assert messages(service_log(log_dir)) == ["two"]
    (log_dir / "execution_service.log").unlink()
    (log_dir / "execution_service.log").write_text("another process's\n")
    log.info("replaced")
    assert running.flush()
    assert messages(service_log(log_dir)) == ["replaced"]
    (log_dir / "execution_service.log").unlink()
    (log_dir / "moved").unlink()
    log_dir.rmdir()
    log.info("three")
    running.stop()
    assert messages(service_log(log_dir)) == ["three"]


def test_log_dir_that_cannot_be_made_leaves_the_console_and_is_said_once_for_each_file(
    start: Start, log_dir: Path, console: Terminal
) -> None:
    log_dir.write_text("a file where the folder should be")
    running = start()
    for number in range(5):
        structlog.get_logger().info(f"line {number}", signal_id=f"s{number}")
        assert running.flush()
    running.stop()
    told = messages(console.getvalue())
    assert [line for line in told if line.startswith("line")] == [f"line {number} | s{number}" for number in range(5)]
    assert sum("Cannot write the log to" in line for line in told) == 2


def test_full_disk_is_said_once_and_so_is_its_end(start: Start, log_dir: Path, console: Terminal) -> None:
    running = start(retry_seconds=0.0)
    log = structlog.get_logger()
    log.info("before")
    assert running.flush()
    # A limit on the size of this process's files fails as a full disk does: the first write goes in part, the next not at all.
    largest = resource.getrlimit(resource.RLIMIT_FSIZE)
    with contextlib.ExitStack() as full:
        full.callback(resource.setrlimit, resource.RLIMIT_FSIZE, largest)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(service_log(log_dir)) + 10, largest[1]))
        for number in range(3):
            log.info(f"lost {number}")
            assert running.flush()
    log.info("after")
    running.stop()
    told = messages(console.getvalue())
    assert [line for line in told if "WARNING" not in line] == ["before", "lost 0", "lost 1", "lost 2", "after"]
    assert sum("File too large" in line for line in told) == 1
    assert sum("is written again" in line for line in told) == 1
    # The torn piece of the first lost line stands alone: what follows begins on a line of its own.
    assert messages(service_log(log_dir))[0] == "before"
    torn = service_log(log_dir).splitlines()[1]
    assert len(torn) == 10
    assert "after" in messages(service_log(log_dir))


def test_file_is_left_alone_until_the_time_to_try_again(
    start: Start, log_dir: Path, console: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = [1000.0]
    monkeypatch.setattr("execution_service.app.log_places.time.monotonic", lambda: moment[0])
    log_dir.write_text("")
    running = start(retry_seconds=30.0)
    log = structlog.get_logger()
    log.info("one")
    assert running.flush()
    log_dir.unlink()
    moment[0] += 29.0
    log.info("two")
    assert running.flush()
    assert not log_dir.exists()
    moment[0] += 2.0
    log.info("three")
    running.stop()
    assert messages(service_log(log_dir))[0] == "three"
    assert any("up to" in line and "are missing" in line for line in messages(console.getvalue()))


@pytest.mark.parametrize(
    "failure", [OSError(errno.EIO, "Input/output error"), ValueError("I/O operation on closed file"), RuntimeError("?")]
)
def test_broken_console_does_not_stop_the_files(
    start: Start, log_dir: Path, console: Terminal, failure: Exception
) -> None:
    running = start()
    console.failure = failure
    for number in range(3):
        structlog.get_logger().info(f"line {number}")
        assert running.flush()
    running.stop()
    told = messages(service_log(log_dir))
    assert [line for line in told if "WARNING" not in line] == ["line 0", "line 1", "line 2"]
    assert sum("Cannot write the log" in line for line in told) == 1


def test_hanging_console_holds_up_no_caller_and_the_overflow_is_counted(
    start: Start, log_dir: Path, console: Terminal
) -> None:
    running = start(queue_records=100)
    log = structlog.get_logger()
    console.has_more.clear()
    log.info("first")
    assert console.asked.wait(10)
    began = time.monotonic()
    for number in range(1000):
        log.info(f"line {number}")
    assert time.monotonic() - began < 5
    console.has_more.set()
    assert running.flush(30)
    log.info("last")
    running.stop()
    told = messages(service_log(log_dir))
    assert told[0] == "first"
    assert told[1:101] == [f"line {number}" for number in range(100)]
    assert told[101:] == ["WARNING | 900 log records were dropped: they came faster than they could be written", "last"]


def test_everything_logged_by_many_threads_before_the_stop_is_written(start: Start, log_dir: Path) -> None:
    running = start()
    log = structlog.get_logger()
    threads = [
        threading.Thread(target=lambda name=name: [log.info(f"{name} {n}") for n in range(200)]) for name in "abcd"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    running.stop()
    told = messages(service_log(log_dir))
    for name in "abcd":
        assert [line for line in told if line.startswith(name)] == [f"{name} {n}" for n in range(200)]


def test_log_can_be_stopped_twice_and_started_again(start: Start, log_dir: Path) -> None:
    log = structlog.get_logger("module.level")
    before = (logging.getLogger().handlers[:], logging.getLogger().level, structlog.is_configured())
    first = start()
    log.info("one")
    second = start()
    log.info("two")
    first.stop()
    log.info("three")
    second.stop()
    second.stop()
    assert (logging.getLogger().handlers, logging.getLogger().level, structlog.is_configured()) == before
    assert messages(service_log(log_dir)) == ["one", "two", "three"]


def test_logging_costs_the_caller_little(start: Start) -> None:
    running = start()
    log = structlog.get_logger("execution_service.trading.trader")
    costs = []
    for number in range(5):  # the least of them: in some of them this thread collects the garbage of all tests before
        began = time.thread_time()
        for fill in range(1000):
            log.info("Order filled: 100 @ $235.15", action="order_filled", signal_id=f"sig_{number}", fill_id=fill)
        costs.append((time.thread_time() - began) / 1000)
    cost = min(costs)
    assert running.flush(30)
    # Measured: 8 µs. The bound leaves room for a slow machine, and would not for formatting or writing in the caller.
    assert cost < 100e-6


def test_console_whose_reader_left_is_given_up_for_good(start: Start, log_dir: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as stream:
        running = start(stream=stream, retry_seconds=0.0)
        for number in range(3):
            structlog.get_logger().info(f"line {number}")
            assert running.flush()
        running.stop()
    told = messages(service_log(log_dir))
    assert sum("Cannot write the log" in line for line in told) == 1
    assert not any("written again" in line for line in told)


PROGRAM = """
import sys, pathlib, structlog
from execution_service.app.log import start_logging
running = start_logging(pathlib.Path(sys.argv[1]), "INFO", "text")
log = structlog.get_logger()
for number in range(int(sys.argv[2])):
    log.info(f"line {number}")
    running.flush()
    if number == 1:
        print("a stray print", flush=True)
if sys.argv[3] == "stop":
    running.stop()
"""


def test_standard_output_that_is_the_log_file_gets_no_second_copy(log_dir: Path) -> None:
    log_dir.mkdir()
    command = f'"$1" -c "$2" "{log_dir}" 4 stop > "{log_dir}/execution_service.log" 2>&1'
    subprocess.run(["sh", "-c", command, "sh", sys.executable, PROGRAM], cwd=REPOSITORY_ROOT, check=True, timeout=60)
    lines = service_log(log_dir).splitlines()
    assert [LINE.sub("", line) for line in lines] == ["line 0", "line 1", "a stray print", "line 2", "line 3"]


def test_another_standard_output_gets_its_copy(log_dir: Path, tmp_path: Path) -> None:
    with (tmp_path / "other").open("wb") as other:
        subprocess.run(
            [sys.executable, "-c", PROGRAM, str(log_dir), "2", "stop"],
            cwd=REPOSITORY_ROOT,
            stdout=other,
            check=True,
            timeout=60,
        )
    assert messages((tmp_path / "other").read_text()) == messages(service_log(log_dir)) == ["line 0", "line 1"]


def test_closed_pipe_kills_nothing(log_dir: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(log_dir), "3", "stop"],
            cwd=REPOSITORY_ROOT,
            stdout=writing,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")
    assert [line for line in messages(service_log(log_dir)) if "WARNING" not in line] == ["line 0", "line 1", "line 2"]


def test_pipe_that_nobody_reads_holds_up_neither_the_service_nor_its_end(log_dir: Path) -> None:
    reading, writing = os.pipe()
    program = PROGRAM.replace("    running.flush()\n", "").replace('print("a stray print", flush=True)', "pass")
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, str(log_dir), "5000", "stop"],
            cwd=REPOSITORY_ROOT,
            stdout=writing,
            check=False,
            timeout=60,
        )
    finally:
        os.close(writing)
        os.close(reading)
    assert done.returncode == 0
    assert messages(service_log(log_dir))[0] == "line 0"


def test_in_silence_nobody_s_lines_appear_and_afterwards_they_do_again(
    start: Start, log_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with silence():
        structlog.get_logger("x").error("not heard")
        logging.getLogger("y").error("not heard")
    assert capfd.readouterr() == ("", "")
    running = start()
    with silence():
        structlog.get_logger("x").error("not heard")
        logging.getLogger("y").error("not heard")
    structlog.get_logger("x").error("first")
    logging.getLogger("y").error("second")
    running.stop()
    assert messages(service_log(log_dir)) == ["ERROR | first", "ERROR | second"]


def test_process_that_ends_without_stopping_the_log_loses_nothing(log_dir: Path) -> None:
    program = PROGRAM.replace("    running.flush()\n", "")
    subprocess.run(
        [sys.executable, "-c", program, str(log_dir), "500", "-"],
        cwd=REPOSITORY_ROOT,
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert messages(service_log(log_dir)) == [f"line {number}" for number in range(500)]
