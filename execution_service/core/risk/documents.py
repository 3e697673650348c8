"""Values of this room as documents with a number of their format, read as strictly as an order's record is; knows no database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeAlias, TypeVar

from execution_service.core.codec import decode, encode
from execution_service.core.errors import CoreError, UnreadableRecord
from execution_service.core.risk.book import RiskBook

Document: TypeAlias = dict[str, Any]
T = TypeVar("T")
FORMAT = 1
VALUES_KNOWN_AGAIN = 8192


def to_document(value: Any) -> Document:
    """Of a frozen dataclass."""
    return {"format": FORMAT, **encode(value)}


def book_to_document(book: RiskBook) -> Document:
    """As `to_document`, at the cost of what has changed since the last book: what an order reserves is the same in each as long as it rests, and how
    much was used of a limit until it is reckoned again. Nobody may change what is in the document."""
    document = to_document(replace(book, reservations=(), uses=()))
    document["reservations"] = [_ENCODED.of(each) for each in book.reservations]
    document["uses"] = [_ENCODED.of(each) for each in book.uses]
    return document


class _Encoded:
    """The documents of values that come again as the same objects, which costs less to see than that they are equal."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[Any, Document]] = {}

    def of(self, value: Any) -> Document:
        kept = self._kept.get(id(value))
        if kept is not None and kept[0] is value:
            return kept[1]
        if len(self._kept) >= VALUES_KNOWN_AGAIN:
            self._kept.clear()
        document: Document = encode(value)
        self._kept[id(value)] = value, document
        return document


_ENCODED = _Encoded()


def from_document(cls: type[T], document: Mapping[str, Any]) -> T:
    """Raises UnreadableRecord for what `to_document` never wrote."""
    try:
        if document["format"] != FORMAT:
            raise UnreadableRecord(f"format {document['format']!r} is not known here")
        return decode(cls, document)
    except (CoreError, KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as exc:
        raise UnreadableRecord(f"{cls.__name__} {document.get('_id')!r}: {type(exc).__name__}: {exc}") from exc
