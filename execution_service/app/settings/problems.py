"""All that is wrong with the settings, collected, so that it is said at once."""

from __future__ import annotations


class ConfigurationError(Exception):
    """The settings cannot be used. `problems` names all that is wrong, one sentence each, without the value of any secret."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def _cause(exc: OSError | UnicodeDecodeError) -> str:
    # The text of a decoding error would quote the bytes of a secret.
    return (exc.strerror or type(exc).__name__) if isinstance(exc, OSError) else "it is not UTF-8 text"
