"""`from services.execution import …`, as programs of spec 001 write it."""

from services.execution.alpaca import AlpacaClient, OrderManagementSystem, OrderRequest, PositionTracker

__all__ = ["AlpacaClient", "OrderManagementSystem", "OrderRequest", "PositionTracker"]
