"""The callers' commands: they know the server by its HTTP API only."""
