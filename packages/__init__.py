"""The import paths of spec 001, which name no room of the service: what they lead to is in `services.execution`."""
