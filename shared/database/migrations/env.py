"""Runs migrations on the connection that shared.database.migrations was given; there is no other
way in, and no alembic.ini.
"""

from alembic import context

from shared.database.models import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
