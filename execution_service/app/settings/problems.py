"""All that is wrong with the settings, collected, so that it is said at once."""

from __future__ import annotations


class ConfigurationError(Exception):
    """The settings cannot be used. `problems` names all that is wrong, one sentence each, without the value of any secret."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class Problems:
    """What was found to be wrong so far. Reading goes on past each, with a default or without the thing, so that the rest is checked too."""

    def __init__(self) -> None:
        self._sentences: dict[str, None] = {}

    def add(self, *sentences: str) -> None:
        """For people, and without the value of any secret; what was said already is not said twice."""
        self._sentences |= dict.fromkeys(sentences)

    def raise_if_any(self) -> None:
        """Raises ConfigurationError."""
        if self._sentences:
            raise ConfigurationError(tuple(self._sentences))


def cause(exc: OSError | UnicodeDecodeError) -> str:
    """Why a file cannot be read. The text of a decoding error would quote the bytes of a secret."""
    return (exc.strerror or type(exc).__name__) if isinstance(exc, OSError) else "it is not UTF-8 text"
