"""Leads: loading files of them, counting, going through what is stored."""
