"""Binance USD-M futures on loopback. No money, no market prices."""

DEFAULT_API_KEY = "simulated-binance-key"
DEFAULT_API_SECRET = "simulated-binance-secret"
