"""The import paths of spec 001; everything is in `execution_service.alpaca_client`."""
