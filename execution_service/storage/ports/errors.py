"""What may be wrong with the store as a whole."""

from __future__ import annotations


class StoreUnavailable(Exception):
    """The store could not be reached; whether a write arrived is not known."""
