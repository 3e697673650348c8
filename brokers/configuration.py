"""An account's settings as adapters read them: typed fields with limits, and all errors in them reported at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import time
from decimal import Decimal
from typing import Annotated, Any, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from brokers.rate import RateLimit, limits
from brokers.variables import Allowed

_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "decimal": "a number",
    "finite_number": "a number",
    "bool": "true or false",
    "string": "text",
    "path": "text",
    "literal_error": "{expected}",
    "greater_than": "above {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "below {lt}",
    "less_than_equal": "{le} or less",
    "value_error": "{error}",
}
"""By the beginning of pydantic's error type: what the setting must be."""


class Wrong(ValueError):
    """Raised by a field's validator with a complete sentence. The text of a plain ValueError says what the setting
    must be."""


def not_a_flag(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a number")
    return value


def _as_time(value: object) -> time:
    try:
        found = value if isinstance(value, time) else time.fromisoformat(str(value).strip())
    except ValueError:
        found = None
    if found is None or found.tzinfo is not None:
        raise ValueError("a time like 23:45")
    return found


def _as_zone(value: object) -> str:
    try:
        return ZoneInfo(str(value).strip()).key
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("a time zone like America/New_York") from None


Whole = Annotated[int, BeforeValidator(not_a_flag)]
Number = Annotated[float, BeforeValidator(not_a_flag), Field(allow_inf_nan=False)]
TimeOut = Annotated[Number, Field(ge=0.001, le=86_400)]
Amount = Annotated[Decimal, BeforeValidator(not_a_flag), Field(ge=0, allow_inf_nan=False)]
Calls = Annotated[Whole, Field(ge=1, le=10_000_000)]
TimeOfDay = Annotated[time, BeforeValidator(_as_time)]
Zone = Annotated[str, BeforeValidator(_as_zone)]


class AccountConfiguration(BaseModel):
    """The settings that every adapter needs. An adapter adds its own. Times are in seconds."""

    model_config = ConfigDict(frozen=True, extra="ignore", str_strip_whitespace=True, hide_input_in_errors=True)

    account_id: str

    @classmethod
    def of(cls, config: Mapping[str, object], *, broker: str) -> Self:
        """The settings in `config`. None and empty text count as absent; keys without a field are ignored.

        Raises ValueError with everything that is wrong. It repeats no text values, which may be secrets.
        """
        try:
            return cls.model_validate(_without_empty(config))
        except ValidationError as exc:
            wrong = "; ".join(each.sentence for each in complaints(cls, exc))
        raise ValueError(f"The {broker} account's settings: {wrong}")

    @classmethod
    def wrong_in(cls, config: Mapping[str, object]) -> dict[str, Complaint]:
        """What `of` would refuse, by key; empty if nothing."""
        try:
            cls.model_validate(_without_empty(config))
        except ValidationError as exc:
            return {each.key: each for each in complaints(cls, exc)}
        return {}


class MeteredConfiguration(AccountConfiguration):
    """For a broker that limits calls. Order calls are placing and cancelling; all others are queries. None: no limit
    on our side."""

    order_calls_per_second: Calls
    order_calls_per_minute: Calls | None = None
    order_calls_per_day: Calls | None = None
    order_reserve_percent: Whole = Field(20, ge=0, le=90)
    """The share of the order calls that is reserved for exits and first cancels; half of it is for exits alone."""
    other_calls_per_second: Calls
    other_calls_per_minute: Calls | None = None
    other_calls_per_day: Calls | None = None

    @property
    def order_limits(self) -> tuple[RateLimit, ...]:
        return limits(
            per_second=self.order_calls_per_second,
            per_minute=self.order_calls_per_minute,
            per_day=self.order_calls_per_day,
            reserve_percent=self.order_reserve_percent,
        )

    @property
    def other_limits(self) -> tuple[RateLimit, ...]:
        return limits(
            per_second=self.other_calls_per_second,
            per_minute=self.other_calls_per_minute,
            per_day=self.other_calls_per_day,
        )


def _without_empty(config: Mapping[str, object]) -> dict[str, object]:
    return {
        key: value
        for key, value in config.items()
        if value is not None and not (isinstance(value, str) and not value.strip())
    }


@dataclass(frozen=True, slots=True)
class Complaint:
    """One invalid field."""

    key: str
    allowed: str
    """What it must be; empty if `whole` says everything."""
    shown: str = ""
    """Its value, unless that is text."""
    whole: str = ""

    @property
    def sentence(self) -> str:
        """For people, without a full stop."""
        return (
            self.sentence_without_value
            if self.whole or not self.shown
            else f"{self.sentence_without_value}, not {self.shown}"
        )

    @property
    def sentence_without_value(self) -> str:
        return self.whole or f"{self.key} must be {self.allowed}"


def complaints(model: type[BaseModel], error: ValidationError) -> list[Complaint]:
    """pydantic's errors in `model`'s fields, one complaint per field, in plain words."""
    found: dict[str, Complaint] = {}
    for each in error.errors(include_url=False):
        key = str(each["loc"][0])
        found.setdefault(key, _complaint(model, key, dict(each)))
    return list(found.values())


def _complaint(model: type[BaseModel], key: str, error: Mapping[str, Any]) -> Complaint:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "missing":
        return Complaint(key, "", whole=f"{key} is missing")
    cause = context.get("error")
    if isinstance(cause, Wrong):
        return Complaint(key, "", whole=str(cause))
    field = model.model_fields.get(key)
    in_words = next((each.words for each in field.metadata if isinstance(each, Allowed)), None) if field else None
    begin = max((begin for begin in _WORDS if kind.startswith(begin)), key=len, default=None)
    if in_words is None and begin is None:
        return Complaint(key, "", whole=f"{key}: {error['msg']}")
    allowed = in_words if in_words is not None or begin is None else _WORDS[begin].format(**_written(context))
    value = error["input"]
    return Complaint(key, allowed or "", shown=type(value).__name__ if begin == "string" else repr(value))


def _written(context: Mapping[str, object]) -> dict[str, object]:
    return {key: f"{value:.15g}" if isinstance(value, float) else value for key, value in context.items()}
