"""Bulk deletes that come as files of millions."""
