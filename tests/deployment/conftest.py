"""What a service of docker-compose.yml needs to run on this test's servers."""

import pytest


@pytest.fixture
def values(database_url, redis_url):
    """What .env would hold: servers of our own, and passwords that are not used."""
    urls = {"DATABASE_URL": database_url, "BROKER_URL": redis_url, "REDIS_URL": redis_url}
    return urls | {"POSTGRES_PASSWORD": "unused", "REDIS_PASSWORD": "unused", "WORKER_PROCESSES": "1"}
