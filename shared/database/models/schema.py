"""What all tables share: where they are registered, how their constraints are named, and times."""

from sqlalchemy import DateTime, MetaData, text

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s",
    }
)

NOW = text("clock_timestamp()")
TIME = DateTime(timezone=True)
OLD_SECRETS = "those before, newest first: secret, encrypted, and until when it signs too"
