"""The simulated TWS or IB Gateway. Here is only the name of its account, for code that needs no gateway."""

DEFAULT_ACCOUNT = "DU000001"
