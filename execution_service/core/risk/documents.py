"""Values of this room as documents with a number of their format, read as strictly as an order's record is; knows no database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias, TypeVar

from execution_service.core.codec import decode, encode
from execution_service.core.errors import CoreError, UnreadableRecord

Document: TypeAlias = dict[str, Any]
T = TypeVar("T")
FORMAT = 1


def to_document(value: Any) -> Document:
    """Of a frozen dataclass."""
    return {"format": FORMAT, **encode(value)}


def from_document(cls: type[T], document: Mapping[str, Any]) -> T:
    """Raises UnreadableRecord for what `to_document` never wrote."""
    try:
        if document["format"] != FORMAT:
            raise UnreadableRecord(f"format {document['format']!r} is not known here")
        return decode(cls, document)
    except (CoreError, KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as exc:
        raise UnreadableRecord(f"{cls.__name__} {document.get('_id')!r}: {type(exc).__name__}: {exc}") from exc
