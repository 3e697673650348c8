"""`from packages.common.execution_schemas import OrderRequest`, as programs of spec 001 write it."""

from services.execution import OrderRequest

__all__ = ["OrderRequest"]
