"""Runs jobs: the Celery app and its task, deciding a chunk, and the ticker that makes up for every
lost message.
"""
