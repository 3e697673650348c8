"""Values of this room as plain documents and back, by their own annotations: exact decimals as text, times as datetimes; knows no database.

Written and read as an order's record is: what is None is not written, what is missing has its default, and fields that are not known are left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from types import NoneType, UnionType
from typing import Any, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

from execution_service.core.errors import CoreError, UnreadableRecord

Document: TypeAlias = dict[str, Any]
T = TypeVar("T")
FORMAT = 1


def to_document(value: Any) -> Document:
    """Of a frozen dataclass."""
    return {"format": FORMAT, **_encoded(value)}


def from_document(cls: type[T], document: Mapping[str, Any]) -> T:
    """Raises UnreadableRecord for what `to_document` never wrote."""
    try:
        if document["format"] != FORMAT:
            raise UnreadableRecord(f"format {document['format']!r} is not known here")
        return _decoded(cls, document)
    except (CoreError, KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as exc:
        raise UnreadableRecord(f"{cls.__name__} {document.get('_id')!r}: {type(exc).__name__}: {exc}") from exc


def _encoded(value: Any) -> Any:
    match value:
        case None | bool() | int() | datetime():
            return value
        case Enum():
            return value.value
        case str():
            # Half a character (a lone surrogate) is taken by no database.
            return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
        case Decimal():
            return str(value)
        case date():
            return value.isoformat()
        case tuple():
            return [_encoded(item) for item in value]
    return {f.name: _encoded(inner) for f in fields(value) if (inner := getattr(value, f.name)) is not None}


def _decoded(cls: type[T], document: Mapping[str, Any]) -> T:
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    for part in fields(cls):  # type: ignore[arg-type]
        hint = hints[part.name]
        if part.name in document:
            values[part.name] = _reader(hint)(document[part.name])
        elif part.default is MISSING and NoneType in get_args(hint):
            values[part.name] = None
    return cls(**values)


def _reader(hint: Any) -> Callable[[Any], Any]:
    if get_origin(hint) in (Union, UnionType):
        (inner,) = (arg for arg in get_args(hint) if arg is not NoneType)
        read = _reader(inner)
        return lambda value: None if value is None else read(value)
    if get_origin(hint) is tuple:
        read_item = _reader(get_args(hint)[0])
        return lambda value: tuple(read_item(item) for item in value)
    if isinstance(hint, type) and is_dataclass(hint):
        return lambda value: _decoded(hint, value)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint
    return _READERS[hint]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no whole number")
    return value


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value


def _decimal(value: Any) -> Decimal:
    number = Decimal(_text(value))
    if not number.is_finite():
        raise ValueError(f"{value!r} is no number")
    return number


def _moment(value: Any) -> datetime:
    if not isinstance(value, datetime):
        raise TypeError(f"{value!r} is no moment")
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


_READERS: dict[Any, Callable[[Any], Any]] = {
    str: _text,
    int: _whole,
    bool: _truth,
    Decimal: _decimal,
    datetime: _moment,
    date: lambda value: date.fromisoformat(_text(value)),
}
