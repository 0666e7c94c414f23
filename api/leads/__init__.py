"""Leads one at a time or a thousand: created, listed, deleted at once."""
