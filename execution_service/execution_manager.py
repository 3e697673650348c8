"""`ExecutionManager`, the name by which programs of spec 000 know this service. It is the service itself: there is one path for orders."""

from execution_service.app.service import ExecutionService as ExecutionManager

__all__ = ["ExecutionManager"]
