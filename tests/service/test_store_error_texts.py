"""What people read when the store does not answer: the driver's first clause, not its picture of all servers."""

from __future__ import annotations

import pytest
from pymongo import MongoClient
from pymongo.errors import AutoReconnect, OperationFailure, PyMongoError, ServerSelectionTimeoutError

from execution_service.storage.mongo.calls import in_short

REFUSED = "127.0.0.1:1: [Errno 111] Connection refused"


def test_a_server_that_is_not_there_is_named_with_the_cause_alone() -> None:
    client: MongoClient[dict[str, object]] = MongoClient("mongodb://127.0.0.1:1/", serverSelectionTimeoutMS=50)
    with client, pytest.raises(ServerSelectionTimeoutError) as caught:
        client.admin.command("ping")
    assert "Topology Description" in str(caught.value)
    assert in_short(caught.value) == REFUSED


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            ServerSelectionTimeoutError("No replica set members found yet, Timeout: 3.0s, Topology Description: <x>"),
            "No replica set members found yet",
        ),
        (
            AutoReconnect("h1:1: timed out (configured timeouts: a: 1ms, b: 2ms),h2:2: closed"),
            "h1:1: timed out,h2:2: closed",
        ),
        (OperationFailure("bad auth : failed", 18, {"ok": 0}), "bad auth : failed"),
        (PyMongoError(""), "PyMongoError"),
        (PyMongoError("first line\nsecond"), "first line"),
    ],
)
def test_only_the_first_clause_is_kept(error: PyMongoError, words: str) -> None:
    assert in_short(error) == words


def test_a_long_clause_ends_between_words() -> None:
    said = in_short(PyMongoError("unreachable " * 50))
    assert said.endswith("unreachable …")
    assert len(said) <= 300
