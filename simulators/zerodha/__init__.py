"""Zerodha's Kite Connect, simulated. Here are only the credentials of its one user, for code that needs no server."""

DEFAULT_API_KEY = "simulatedkey"
DEFAULT_API_SECRET = "simulated-secret-no-secret"
DEFAULT_ACCESS_TOKEN = "simulated-access-token"
