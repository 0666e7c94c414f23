"""Celery's broker: the only sender, what its URL may be, whether it works, and who is woken."""
