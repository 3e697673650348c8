"""The import paths of spec 001; everything is in `services.execution.alpaca`."""
