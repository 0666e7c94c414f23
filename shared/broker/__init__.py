"""Celery's broker: the only sender, its URL, its health, and wake-ups."""
