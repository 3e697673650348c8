"""Canaries in every credential: after good and bad days none of them stands in a log, a document, a message, an alert or an argument.

The outside world here is the worst there is: it repeats in its error texts whatever it was sent, tokens, addresses and all.
"""

from __future__ import annotations

import base64
import json
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest
from bson import json_util

from tests.external.scripts_run import execctl
from tests.external.service_process import COMMANDS_TOPIC, Listener, Service, embedded_address, free_port
from tests.waits import wait_until

pytestmark = [
    pytest.mark.filterwarnings("ignore:The return_immediately flag:DeprecationWarning"),
    pytest.mark.timeout(300),
]

CANARIES = {
    "KITE_API_KEY": "canaryapikey7f3a",
    "KITE_API_SECRET": "canarysecret/91c+x",
    "KITE_ACCESS_TOKEN": "canarytoken55d0aa",
    "TELEGRAM_BOT_TOKEN": "77001122:canary-bot_tokenABCDEFGHIJKLMNOPQR",
    "API_TOKEN": "canary api token 8e",
}
PASSWORD = "canary@pass:w/rd%9"
RENEWED_TOKEN = "canaryrenewed66e1bb"
ACCOUNT_SECRET = "canaryaccountown22"


def spellings(secret: str) -> set[str]:
    """The ways in which a careless text could tell it."""
    plain = {secret, quote(secret), quote(secret, safe=""), repr(secret)[1:-1], json.dumps(secret)[1:-1]}
    plain |= {base64.b64encode(secret.encode()).decode().rstrip("=")[:-1]}
    return plain | ({secret.partition(":")[2]} if secret[:3].isdecimal() else set())


EVERY_SPELLING = {
    way for secret in (*CANARIES.values(), PASSWORD, RENEWED_TOKEN, ACCOUNT_SECRET) for way in spellings(secret)
}


def assert_no_canary(text: str | bytes, where: str) -> None:
    data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    for way in EVERY_SPELLING:
        at = data.find(way.encode())
        assert at < 0, f"{way!r} stands in {where}: …{data[max(0, at - 120) : at + 60]!r}"


class _Echo(BaseHTTPRequestHandler):
    """Refuses everything, and says in the refusal all that it was sent."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        sent = f"{self.command} {self.path} {dict(self.headers)} {self.rfile.read(length).decode(errors='replace')}"
        server: Any = self.server
        server.heard.append(sent)
        if "/bot" in self.path:
            status, body = 400, {"ok": False, "error_code": 400, "description": f"Bad Request: chat not found: {sent}"}
        else:
            kinds = ("TokenException", "GeneralException", "NetworkException", "InputException")
            kind = kinds[len(server.heard) % len(kinds)]
            status, body = (
                403 if kind == "TokenException" else 500,
                {"status": "error", "message": sent, "error_type": kind},
            )
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


@contextmanager
def echo_server() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
    server.heard = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def service_among_echoes(folder: Path, echo: Any, **more: str) -> Service:
    url = f"http://127.0.0.1:{echo.server_port}"
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name in ("KITE_API_SECRET", "TELEGRAM_BOT_TOKEN", "KITE_ACCESS_TOKEN"):
        files[f"{name}_FILE"] = str(folder / name.lower())
        (folder / name.lower()).write_text(CANARIES[name])
        (folder / name.lower()).chmod(0o600)
    accounts = folder / "accounts.toml"
    accounts.write_text(
        f"""
[accounts.kite]
broker = "zerodha"
api_key = {{ env = "KITE_API_KEY" }}
api_secret = {{ env = "KITE_API_SECRET" }}
access_token_file = "{folder / "kite_access_token"}"
root_url = "{url}"
live = false

[accounts.own]
broker = "zerodha"
api_key = {{ env = "OWN_ACCOUNT_KEY" }}
access_token_file = "{folder / "kite_access_token"}"
root_url = "{url}"
live = false

[accounts.mock]
broker = "mock"
"""
    )
    settings = {
        "ACCOUNTS_FILE": str(accounts),
        "USE_MOCK_BROKER": "false",
        "LOG_LEVEL": "DEBUG",
        "KITE_API_KEY": CANARIES["KITE_API_KEY"],
        "API_TOKEN": CANARIES["API_TOKEN"],
        "OWN_ACCOUNT_KEY": ACCOUNT_SECRET,
        "TELEGRAM_ENABLED": "true",
        "TELEGRAM_CHAT_ID": "4711",
        "TELEGRAM_API_BASE_URL": url,
        "PYTHONASYNCIODEBUG": "1",
    }
    return Service(folder, by_its_path=True, **(settings | files | more))


def assert_places_are_clean(service: Service) -> None:
    """Console, logs and every file of the data folder."""
    assert_no_canary(service.console(), "the console")
    for folder in (service.log_dir, service.data_dir):
        for path in folder.rglob("*"):
            if path.is_file():
                assert_no_canary(path.read_bytes(), str(path))


def said_by_execctl(service: Service, *arguments: str) -> str:
    said = execctl(service, *arguments)
    return said.out + said.err


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_credential_leaves_the_process_but_to_whom_it_belongs(tmp_path: Path, log_format: str) -> None:
    with echo_server() as echo, service_among_echoes(tmp_path, echo, LOG_FORMAT=log_format) as service:
        service.start()
        with Listener(embedded_address(service)) as listener:
            orders = [
                {
                    "signal_id": f"s-{account}",
                    "account_id": account,
                    "strategy_name": "t",
                    "symbol": "INFY",
                    "side": "BUY",
                    "quantity": 1,
                    "order_type": "MARKET",
                    "timeout_seconds": 5,
                }
                for account in ("kite", "own", "mock", "nobody")
            ]
            with service.pubsub() as pubsub:
                pubsub.publish(orders)
                pubsub.publish([{"command": "CANCEL", "signal_id": "s-kite"}], COMMANDS_TOPIC)
                pubsub.publish([{"signal_id": "s-x"}, {"no": "signal"}])
            wait_until(lambda: any(CANARIES["KITE_ACCESS_TOKEN"] in sent for sent in echo.heard), "Kite was asked")
            wait_until(lambda: any("/bot" in sent for sent in echo.heard), "Telegram was asked", within=40)
            (tmp_path / "kite_access_token").write_text(RENEWED_TOKEN)
            wait_until(lambda: any(RENEWED_TOKEN in sent for sent in echo.heard), "the new token was used", within=60)
            wait_until(lambda: listener.ended_signals() >= {"s-mock", "s-nobody", "s-x"}, "orders ended", within=30)
            time.sleep(2.0)  # for the last lines about the renewed token
            told = [json.dumps(dict(c.body)) + json.dumps(dict(c.attributes)) for c in listener.received]

        members = [psutil.Process(service.pid), *service.family()]
        for member in members:
            assert_no_canary(b"\0".join(part.encode() for part in member.cmdline()), f"the arguments of {member}")
        for member in members[1:]:
            environment = "\0".join(f"{name}={value}" for name, value in member.environ().items())
            assert_no_canary(environment, f"the environment of {member}")
        with service.database() as db:
            for name in db.list_collection_names():
                assert_no_canary(json_util.dumps(list(db[name].find())), f"the collection {name}")
        for text in told:
            assert_no_canary(text, "a confirmation")
        for arguments in (
            ("orders",),
            ("order", "s-kite"),
            ("dead-letters",),
            ("orders", "--json"),
            ("order", "s-own", "--json"),
        ):
            assert_no_canary(said_by_execctl(service, *arguments), f"execctl {arguments}")
        status, _ = service.stop()
        assert status == 0
        assert_places_are_clean(service)
        _, checked = service.run("--check", within=90)
        assert_no_canary(checked, "--check")


@pytest.mark.parametrize("arguments", [("--check",), ()], ids=["check", "run"])
def test_a_password_in_the_stores_address_is_told_to_nobody(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    uri = f"mongodb://canary-user:{quote(PASSWORD, safe='')}@127.0.0.1:{free_port()}/?serverSelectionTimeoutMS=500"
    with echo_server() as echo, service_among_echoes(tmp_path, echo, MONGODB_URI=uri) as service:
        service.launch(*arguments)
        if arguments:
            wait_until(lambda: service.exit_status() is not None, "the check ends", within=90)
            assert service.exit_status() == 2
        else:
            wait_until(lambda: "Waiting for the store" in service.console(), "it says what it waits for", within=30)
            for member in [psutil.Process(service.pid), *service.family()]:
                assert_no_canary(b"\0".join(part.encode() for part in member.cmdline()), f"the arguments of {member}")
            service.stop()
        assert_places_are_clean(service)
        assert_no_canary(said_by_execctl(service, "orders"), "execctl")


def test_wrong_settings_are_listed_without_their_secrets(tmp_path: Path) -> None:
    for name, value in (
        ("MONGODB_URI", f"mongodb://u:{PASSWORD}@@@:99999999/x"),
        ("MONGODB_URI", f"http://u:{quote(PASSWORD, safe='')}@h"),
        ("TELEGRAM_BOT_TOKEN_FILE", str(tmp_path / "absent")),
        ("TELEGRAM_API_BASE_URL", "not a url"),
    ):
        with echo_server() as echo:
            service = service_among_echoes(tmp_path, echo, **{name: value, "API_PORT": "nonsense"})
            status, said = service.run(within=90)
            assert status == 2
            assert "API_PORT" in said
            assert_no_canary(said, f"what is said of {name}")


def test_files_and_sockets_are_the_owners_alone(tmp_path: Path) -> None:
    with echo_server() as echo, service_among_echoes(tmp_path, echo) as service:
        service.start()
        for member in [psutil.Process(service.pid), *service.family()]:
            for connection in member.net_connections(kind="inet"):
                if connection.status == psutil.CONN_LISTEN:
                    address = ip_address(connection.laddr.ip)
                    mapped = getattr(address, "ipv4_mapped", None) or address
                    assert mapped.is_loopback, f"{member} listens on {connection.laddr}"
            for connection in member.net_connections(kind="unix"):
                if connection.laddr and not str(connection.laddr).startswith("@"):
                    assert stat.S_IMODE(Path(str(connection.laddr)).stat().st_mode) & 0o077 == 0
        for folder in (service.data_dir, service.log_dir):
            for path in (folder, *folder.rglob("*")):
                if not path.is_symlink():
                    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, f"{path} is open to others"
