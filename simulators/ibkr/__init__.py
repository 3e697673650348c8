"""The TWS or IB Gateway, simulated; here only how its account is known, for those who need no gateway."""

DEFAULT_ACCOUNT = "DU000001"
