"""Why a service cannot be started, or cannot go on; known before the rest of it is loaded."""

from __future__ import annotations


class CannotStart(Exception):
    """Something the service needs could not be had within a minute; the message names it."""


class CannotGoOn(Exception):
    """A part of the service could not be kept alive, and the service has stopped in order; the message names it and says why."""
