"""Zerodha's Kite Connect, simulated; here only how its one user is known, for those who need no server."""

DEFAULT_API_KEY = "simulatedkey"
DEFAULT_API_SECRET = "simulated-secret-no-secret"
DEFAULT_ACCESS_TOKEN = "simulated-access-token"
