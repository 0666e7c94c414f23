"""A campaign's owner is part of a key, and a request's media type of what an Idempotency-Key stands
for.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Builds an index of campaigns and adds a column that is null: at once. Processes of before go
    on beside it.
    """
    op.create_index("campaigns_owner_key", "campaigns", ["company_id", "id"], unique=True)
    op.drop_index("campaigns_company_id_idx", "campaigns")
    comment = "of that request, without parameters; null: stored before it was part of it"
    op.add_column("idempotency_keys", sa.Column("media_type", sa.Text(), comment=comment))


def downgrade() -> None:
    """Drops what it added. What was left undone as its campaign had moved has failed."""
    op.execute("""
        UPDATE chunks SET outcomes = array_replace(outcomes, 34::smallint, 6::smallint)
        WHERE outcomes && ARRAY[34]::smallint[]
    """)
    op.drop_column("idempotency_keys", "media_type")
    op.create_index("campaigns_company_id_idx", "campaigns", ["company_id"])
    op.drop_index("campaigns_owner_key", "campaigns")
