"""Bulk deletes and their jobs: accepting one, waiting for it, reading it, steering it."""
