"""`from packages.common.execution_schemas import OrderRequest`, as programs of spec 001 write it."""

from execution_service.alpaca_client import OrderRequest

__all__ = ["OrderRequest"]
