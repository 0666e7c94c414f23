"""Runs migrations on the connection that shared.migrations was given; there is no other way in, and no alembic.ini."""

from alembic import context

from shared.models import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
