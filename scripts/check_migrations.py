"""Fails unless the migrations, run on an empty database, give exactly the tables of shared.models (`alembic check`)."""
