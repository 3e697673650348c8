"""Values of this room as documents with a number of their format, read as strictly as an order's record is; knows no database."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeAlias, TypeVar

from execution_service.core.codec import decode, encode
from execution_service.core.errors import CoreError, UnreadableRecord
from execution_service.core.risk.book import RiskBook
from execution_service.core.risk.exposure import Reservation

Document: TypeAlias = dict[str, Any]
T = TypeVar("T")
FORMAT = 1


def to_document(value: Any) -> Document:
    """Of a frozen dataclass."""
    return {"format": FORMAT, **encode(value)}


def book_to_document(book: RiskBook) -> Document:
    """As `to_document`, at the cost of what has changed since the last book: what an order reserves is the same in each as long as it rests. Nobody
    may change what is in the document."""
    document = to_document(replace(book, reservations=()))
    document["reservations"] = [_reservation_as_document(each) for each in book.reservations]
    return document


@lru_cache(maxsize=8192)
def _reservation_as_document(reservation: Reservation) -> Document:
    return encode(reservation)  # type: ignore[no-any-return]


def from_document(cls: type[T], document: Mapping[str, Any]) -> T:
    """Raises UnreadableRecord for what `to_document` never wrote."""
    try:
        if document["format"] != FORMAT:
            raise UnreadableRecord(f"format {document['format']!r} is not known here")
        return decode(cls, document)
    except (CoreError, KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as exc:
        raise UnreadableRecord(f"{cls.__name__} {document.get('_id')!r}: {type(exc).__name__}: {exc}") from exc
