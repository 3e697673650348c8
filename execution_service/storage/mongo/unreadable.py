"""Which of the store's documents could not be read: what is left alone is remembered and said once; reads and writes nothing itself."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from brokers.base import Instrument
from execution_service.core.views.record import instrument_of_ledger
from execution_service.storage.ports.unreadable import UnreadableDocument

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Known:
    words: str
    account_id: str | None
    names: frozenset[str]
    instrument: Instrument | None


class UnreadableDocuments:
    """May be called from several threads. A document that can be read again is forgotten."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], _Known] = {}
        self._fresh: list[UnreadableDocument] = []

    def note(self, collection: str, document: Mapping[str, Any], why: object) -> None:
        """Says it, unless it has been said."""
        key, words, account_id = (collection, str(document.get("_id"))), str(why), document.get("account_id")
        account_id = account_id if isinstance(account_id, str) else None
        lookup = document.get("lookup")
        names = [word for word in lookup if isinstance(word, str)] if isinstance(lookup, list) else []
        identity = [f"signal:{document.get('signal_id')}", key[1]]
        instrument = (
            instrument_of_ledger(document) if "instrument" in document or "instrument_key" in document else None
        )
        with self._lock:
            known = self._known.get(key)
            self._known[key] = _Known(words, account_id, frozenset((*names, *identity)), instrument)
            if known is not None:
                return
            self._fresh.append(UnreadableDocument(account_id=account_id, words=words))
        log.error(f"Left alone, it cannot be read: {words}", action="unreadable_record", account_id=account_id)

    def read(self, collection: str, document_id: object) -> None:
        """It could be read."""
        if self._known:
            with self._lock:
                self._known.pop((collection, str(document_id)), None)

    def named(self, collections: Collection[str], names: Collection[str], *, also: str | None = None) -> list[str]:
        """What is wrong with those of these collections that are called by one of these names, and by `also`."""
        if not self._known:
            return []
        with self._lock:
            of_these = [each for (collection, _), each in self._known.items() if collection in collections]
        known = [each for each in of_these if not each.names.isdisjoint(names)]
        return [each.words for each in known if also is None or also in each.names]

    def ids(self, collection: str) -> list[str]:
        """Of those in one collection."""
        with self._lock:
            return [document_id for name, document_id in self._known if name == collection]

    def ledgers_of(self, account_id: str) -> list[Instrument]:
        with self._lock:
            known = list(self._known.values())
        return [each.instrument for each in known if each.instrument is not None and each.account_id == account_id]

    def fresh(self) -> list[UnreadableDocument]:
        """Those that people have not been told of."""
        with self._lock:
            return list(self._fresh)

    def told(self, some: Collection[UnreadableDocument]) -> None:
        """People have been told of these."""
        with self._lock:
            self._fresh = [each for each in self._fresh if not any(each is one for one in some)]
