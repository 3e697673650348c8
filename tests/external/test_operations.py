"""The commands of README.md and docs/operations.md, run as they stand against a real service in the sequence in which they stand.

A block marked ```` ```console tried ```` holds commands after `$ `, each followed by words that its output must have, line by line: `…`
stands for anything within a line, `# exit N` for another exit status than 0 (`any`: it does not matter).
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.external.forked import REPOSITORY
from tests.external.scripts_run import run_script
from tests.external.service_process import PubSub, Service

OPERATIONS = REPOSITORY / "docs" / "operations.md"
README = REPOSITORY / "README.md"
READ_AGAIN_SECONDS = 20.0
COMMAND_SECONDS = 120.0

ACCOUNTS = """
[accounts.Mock_Paper]
name = "Mock account"
broker = "mock"

[accounts.Slow_Paper]
name = "Slow mock account"
broker = "mock"
fill_delay_seconds = 3600
"""

# These only look: what was just asked for may need a moment until it can be seen.
ONLY_LOOKS = re.compile(r"execctl\.py (orders?|positions|dead-letters)\b|mvp_demo_status\.py|^(grep|tail) ")


# A script alone, without anything that the shell does with its words or its output; the one that starts the service begins as it would.
SCRIPT = re.compile(
    r"python (?P<path>(?!scripts/mvp_demo_start)(scripts|tests/signals_testing)/\w+\.py)(?P<arguments>[^|<>&;$`*?~()#]*)"
)


@dataclass(frozen=True, slots=True)
class Tried:
    """One command of a page with what the page says about it."""

    line: int
    command: str
    exit_status: int | None
    words: tuple[str, ...]


def tried(page: Path) -> list[Tried]:
    found: list[Tried] = []
    is_inside = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        text = line.strip()
        if text.startswith("```"):
            is_inside = text == "```console tried"
        elif is_inside and text.startswith("$ "):
            command, _, status = text.removeprefix("$ ").partition("   # exit ")
            found.append(Tried(number, command, None if status == "any" else int(status or 0), ()))
        elif is_inside and text:
            last = found.pop()
            found.append(Tried(last.line, last.command, last.exit_status, (*last.words, text)))
    return found


def has(output: str, words: str) -> bool:
    parts = [r"\s+".join(re.escape(word) for word in part.split()) for part in words.split("…")]
    return re.search(".*".join(parts), output) is not None


class Stage:
    """An operator's terminal: a folder that looks like the repository, but with data and logs of its own."""

    def __init__(self, folder: Path) -> None:
        accounts = folder / "accounts.toml"
        accounts.write_text(ACCOUNTS, encoding="utf-8")
        self.service = Service(folder, by_its_path=True, ACCOUNTS_FILE=str(accounts))
        self.folder = folder / "repository"
        self.folder.mkdir()
        self.service.log_dir.mkdir()
        for name in ("scripts", "tests", "execution_service"):
            (self.folder / name).symlink_to(REPOSITORY / name)
        (self.folder / "data").symlink_to(self.service.data_dir)
        (self.folder / "logs").symlink_to(self.service.log_dir)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = self.service.environment() | {"PATH": path}
        self.names: dict[str, str] = {}

    def run(self, command: str) -> tuple[int, str]:
        command = self.filled(command)
        script = SCRIPT.fullmatch(command)
        if script is not None:
            said = run_script(
                self.folder / script["path"],
                *shlex.split(script["arguments"]),
                environment=self.environment,
                folder=self.folder,
                within=COMMAND_SECONDS,
                goes_one_way=True,
            )
            return said.status, said.out
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        return done.returncode, done.stdout.decode("utf-8", "replace")

    def filled(self, text: str) -> str:
        """With the ids that this service gave."""
        for name, value in self.names.items():
            text = re.sub(rf"\b{name}\b", value, text)
        return text

    def sample(self, name: str) -> str:
        status, output = self.run(f"python tests/signals_testing/send_test_signal.py --file {shlex.quote(name)}")
        assert status in (0, 3), output
        return output

    def end(self) -> None:
        """Leaves no process of this folder running, however the page's commands ended."""
        mine = f"{self.service.folder}/"
        left = [p for p in psutil.process_iter(["cmdline", "environ"]) if _belongs_to(p, mine)]
        for process in left:
            process.terminate()
        _, alive = psutil.wait_procs(left, timeout=15)
        for process in alive:
            process.kill()


def _belongs_to(process: psutil.Process, folder: str) -> bool:
    environment = process.info["environ"] or {}
    return str(environment.get("DATA_DIR", "")).startswith(folder) and process.pid != os.getpid()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A service that runs, with one order filled, one refused and one dead letter."""
    stage = Stage(tmp_path)
    try:
        status, output = stage.run("python scripts/mvp_demo_start.py")
        assert status == 0, output
        filled = stage.sample("equity_simple_signal_1.json")
        stage.sample("refused_contradiction_1.json")
        (signal,) = set(re.findall(r"(\S+)\s+published to trading-orders", filled))
        (order,) = set(re.findall(r"recorded as (\S+)", filled))
        with PubSub(str(stage.service.endpoints()["pubsub_emulator_host"])) as pubsub:
            path = pubsub.publisher.topic_path("mathematricks-trader", "trading-orders")
            message_id = pubsub.publisher.publish(path, b"this is no order").result(10)
        stage.names = {"SIGNAL_ID": signal, "ORDER_ID": order, "MESSAGE_ID": message_id}
        yield stage
    finally:
        stage.end()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", [README, OPERATIONS], ids=lambda page: page.name)
def test_the_commands_of_the_page_do_what_it_says(stage: Stage, page: Path) -> None:
    commands = tried(page)
    assert len(commands) >= 4
    for each in commands:
        assert_done_as_described(stage, each, page)


def assert_done_as_described(stage: Stage, each: Tried, page: Path) -> None:
    deadline = time.monotonic() + (READ_AGAIN_SECONDS if ONLY_LOOKS.search(each.command) else 0.0)
    while True:
        status, output = stage.run(each.command)
        missing = [words for words in each.words if not has(output, stage.filled(words))]
        is_status_right = each.exit_status is None or status == each.exit_status
        if is_status_right and not missing:
            return
        if time.monotonic() > deadline:
            raise AssertionError(
                f"{page.name} line {each.line}: {each.command}\nexit {status}, described {each.exit_status}; "
                f"not there: {missing}\n{output}"
            )
        time.sleep(0.2)


def test_every_chapter_that_the_page_announces_is_there() -> None:
    text = OPERATIONS.read_text(encoding="utf-8")
    chapters = {_anchor(heading) for heading in re.findall(r"^##+ (.+)$", text, flags=re.MULTILINE)}
    announced = set(re.findall(r"\]\(#([^)]+)\)", text))
    assert announced - chapters == set()


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_a_console_block_is_either_tried_or_shown() -> None:
    """Nobody forgets the mark: a `$ ` command stands in a tried block or nowhere."""
    for page in (README, OPERATIONS):
        text = page.read_text(encoding="utf-8")
        kinds = set(re.findall(r"^\s*```(\S.*)$", text, flags=re.MULTILINE))
        assert kinds <= {"console tried", "bash"}
        assert text.count("\n$ ") + len(re.findall(r"\n +\$ ", text)) == len(tried(page))
