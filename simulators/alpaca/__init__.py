"""Alpaca's trading API, simulated. Here are only the keys of its one account, for code that needs no server."""

DEFAULT_API_KEY = "PKSIMULATED"
DEFAULT_SECRET_KEY = "simulated-secret-no-secret"
DEFAULT_ACCOUNT = "PA3SIMULATED"
