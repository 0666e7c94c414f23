"""What a service of docker-compose.yml needs to run on this test's servers."""

import pytest

from shared.credentials import new_secrets_key


@pytest.fixture
def values(database_url, redis_url):
    """What .env would hold: servers of our own, and passwords that are not used."""
    urls = {"DATABASE_URL": database_url, "BROKER_URL": redis_url, "REDIS_URL": redis_url}
    key = {"LEADSWEEP_SECRETS_KEY": new_secrets_key()}
    return (
        urls
        | key
        | {"POSTGRES_PASSWORD": "unused", "REDIS_PASSWORD": "unused", "WORKER_PROCESSES": "1"}
    )
