"""`from services.execution import …`, as programs of spec 001 write it."""

from execution_service.alpaca_client import AlpacaClient, OrderManagementSystem, PositionTracker

__all__ = ["AlpacaClient", "OrderManagementSystem", "PositionTracker"]
