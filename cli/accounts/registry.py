"""Companies, campaigns and API keys: the statements of the commands, of `up` and of `demo`.

Every function works inside its caller's transaction. An id that is taken or unknown is a Failure,
not a database error.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from leadsweep.terminal.failure import Failure
from sqlalchemy import Connection, RowMapping, case, func, literal, select, update
from sqlalchemy.dialects.postgresql import insert

from shared.credentials import Vault, hash_key, last_end, new_key, new_secret, retired
from shared.database.models import api_keys, campaigns, companies, leads, webhooks


class NewKey(NamedTuple):
    """A key that was just made. `key` itself is known only now."""

    id: UUID
    key: str
    created_at: datetime
    expires_at: datetime | None


class KeyTerms(NamedTuple):
    """What a key may do. `expires` is a time, or a duration from now; None means never. Rates are
    written as `5000/hour`; None means the server's.
    """

    company_id: str
    scope: str
    campaign_id: str | None = None
    name: str = ""
    expires: datetime | timedelta | None = None
    rate_limit_submit: str | None = None
    rate_limit_read: str | None = None


def create_company(
    connection: Connection, company_id: str, name: str = "", *, vault: Vault
) -> None:
    """Adds a company, with the secret that signs its callbacks. Raises Failure if the id is
    taken.
    """
    values = {"id": company_id, "name": name, "webhook_secret": vault.lock(new_secret())}
    added = insert(companies).values(values).on_conflict_do_nothing().returning(companies.c.id)
    if connection.scalar(added) is None:
        raise Failure(f"company {company_id} already exists", "choose another id")


def webhook_secret(
    connection: Connection, company_id: str, vault: Vault, *, rotate: bool
) -> tuple[str, datetime | None]:
    """The secret that signs a company's callbacks, and until when the secret before it signs too.

    With `rotate`, or where the company has no secret, it gets a new one. Raises Failure for an
    unknown company, and where the vault's key does not fit.
    """
    _require_company(connection, company_id)
    is_company = companies.c.id == company_id
    secret, old_secrets = companies.c.webhook_secret, companies.c.old_webhook_secrets
    new: dict[str, Any] = {"webhook_secret": vault.lock(new_secret())}
    if rotate:
        new["old_webhook_secrets"] = case(
            (secret.is_(None), old_secrets), else_=retired(secret, old_secrets)
        )
        connection.execute(update(companies).where(is_company).values(new))
    else:
        connection.execute(update(companies).where(is_company, secret.is_(None)).values(new))
    row = connection.execute(select(secret, old_secrets).where(is_company)).one()
    try:
        return vault.unlock(row.webhook_secret), last_end(row.old_webhook_secrets)
    except ValueError as error:
        raise Failure(
            str(error), "set the key that the API has; older keys go after a comma"
        ) from None


def list_companies(connection: Connection) -> Sequence[RowMapping]:
    """The `id` and `name` of each company."""
    return (
        connection.execute(select(companies.c.id, companies.c.name).order_by(companies.c.id))
        .mappings()
        .all()
    )


def list_campaigns(connection: Connection, company_id: str | None = None) -> Sequence[RowMapping]:
    """The campaigns, with all columns. Raises Failure for an unknown company."""
    query = select(campaigns).order_by(campaigns.c.company_id, campaigns.c.id)
    if company_id is not None:
        _require_company(connection, company_id)
        query = query.where(campaigns.c.company_id == company_id)
    return connection.execute(query).mappings().all()


def list_webhooks(connection: Connection, company_id: str | None = None) -> Sequence[RowMapping]:
    """The webhooks, oldest first: all columns but their secrets. Raises Failure for an unknown
    company.
    """
    secrets = {webhooks.c.secret, webhooks.c.old_secrets}
    query = select(*(column for column in webhooks.c if column not in secrets)).order_by(
        webhooks.c.created_at, webhooks.c.id
    )
    if company_id is not None:
        _require_company(connection, company_id)
        query = query.where(webhooks.c.company_id == company_id)
    return connection.execute(query).mappings().all()


def signing_secrets(connection: Connection, vault: Vault) -> Iterator[tuple[str, str]]:
    """Each secret that signs or has signed, and a name for it, those in use first. Secrets that
    were encrypted with another key are left out.
    """
    by_company = select(companies.c.id, companies.c.webhook_secret, companies.c.old_webhook_secrets)
    by_webhook = select(
        webhooks.c.id, webhooks.c.company_id, webhooks.c.secret, webhooks.c.old_secrets
    )
    current: list[tuple[str, bytes]] = []
    former: list[tuple[str, bytes]] = []

    def add(name: str, secret: bytes | None, old_secrets: list[dict[str, str]]) -> None:
        if secret:
            current.append((name, secret))
        former.extend(
            (f"{name} before its last rotation", old["secret"].encode()) for old in old_secrets
        )

    for company in connection.execute(by_company):
        name = f"the secret of company {company.id}"
        add(name, company.webhook_secret, company.old_webhook_secrets)
    for webhook in connection.execute(by_webhook):
        name = f"the secret of webhook {webhook.id} of company {webhook.company_id}"
        add(name, webhook.secret, webhook.old_secrets)
    for name, locked in current + former:
        with suppress(ValueError):  # another key encrypted it
            yield name, vault.unlock(locked)


def create_campaign(
    connection: Connection, campaign_id: str, company_id: str, name: str = ""
) -> None:
    """Adds a campaign. Raises Failure if any company has a campaign with this id, or if the company
    is unknown.
    """
    _require_company(connection, company_id)
    values = {"id": campaign_id, "company_id": company_id, "name": name}
    added = insert(campaigns).values(values).on_conflict_do_nothing().returning(campaigns.c.id)
    if connection.scalar(added) is None:
        raise Failure(
            f"campaign {campaign_id} already exists",
            "choose another id (ids are unique across companies)",
        )


def require_campaign(
    connection: Connection, campaign_id: str, company_id: str | None = None
) -> None:
    """Raises Failure unless the campaign exists and belongs to the company, where one is named."""
    owner = connection.scalar(select(campaigns.c.company_id).where(campaigns.c.id == campaign_id))
    if owner is None:
        example = f"leadsweep campaigns create {campaign_id} --company {company_id or 'COMPANY'}"
        raise Failure(f"campaign {campaign_id} does not exist", f"create it: {example}")
    if company_id not in {None, owner}:
        raise Failure(f"campaign {campaign_id} belongs to company {owner}, not to {company_id}")


def set_off_peak(connection: Connection, campaign_id: str, window: str | None) -> None:
    """Gives the campaign an off-peak window of its own; None means the server's. Raises Failure for
    an unknown campaign.
    """
    require_campaign(connection, campaign_id)
    connection.execute(
        update(campaigns).where(campaigns.c.id == campaign_id).values(off_peak=window)
    )


def off_peak(connection: Connection, campaign_id: str) -> str | None:
    """The campaign's own off-peak window. Raises Failure for an unknown campaign."""
    require_campaign(connection, campaign_id)
    return connection.scalar(select(campaigns.c.off_peak).where(campaigns.c.id == campaign_id))


def set_phone_region(connection: Connection, campaign_id: str, region: str | None) -> None:
    """Changes the country in which phone numbers without a + are read; None means no country.
    Raises Failure for an unknown campaign.
    """
    require_campaign(connection, campaign_id)
    connection.execute(
        update(campaigns).where(campaigns.c.id == campaign_id).values(phone_region=region)
    )


def phone_region(connection: Connection, campaign_id: str) -> str | None:
    """The country in which phone numbers without a + are read, or None. Raises Failure for an
    unknown campaign.
    """
    require_campaign(connection, campaign_id)
    return connection.scalar(select(campaigns.c.phone_region).where(campaigns.c.id == campaign_id))


def _require_company(connection: Connection, company_id: str) -> None:
    if connection.scalar(select(companies.c.id).where(companies.c.id == company_id)) is None:
        raise Failure(
            f"company {company_id} does not exist",
            f"create it: leadsweep companies create {company_id}",
        )


def create_key(connection: Connection, terms: KeyTerms) -> NewKey:
    """Makes a key and stores its hash. Raises Failure for an unknown company or campaign, or an
    expiry in the past.
    """
    _require_company(connection, terms.company_id)
    if terms.campaign_id is not None:
        require_campaign(connection, terms.campaign_id, terms.company_id)
    key, now = new_key(), func.clock_timestamp()
    values: dict[str, Any] = terms._asdict()
    expires = values.pop("expires")
    values |= {"id": uuid4(), "hash": hash_key(key), "created_at": now}
    values["expires_at"] = now + literal(expires) if isinstance(expires, timedelta) else expires
    added = (
        insert(api_keys)
        .values(values)
        .returning(api_keys.c.id, api_keys.c.created_at, api_keys.c.expires_at)
    )
    row = connection.execute(added).one()
    if row.expires_at is not None and row.expires_at <= row.created_at:
        raise Failure(
            "--expires is in the past; by the database's clock it is now "
            + row.created_at.isoformat(timespec="seconds")
        )
    return NewKey(row.id, key, row.created_at, row.expires_at)


def list_keys(connection: Connection, company_id: str | None = None) -> Sequence[RowMapping]:
    """The keys, oldest first: all columns but the hash, and a `state` (active, expired or revoked).
    Raises Failure for an unknown company.
    """
    expired = api_keys.c.expires_at <= func.clock_timestamp()
    state = case(
        (api_keys.c.revoked_at.is_not(None), "revoked"), (expired, "expired"), else_="active"
    ).label("state")
    shown = [column for column in api_keys.c if column is not api_keys.c.hash]
    query = select(*shown, state).order_by(api_keys.c.created_at, api_keys.c.id)
    if company_id is not None:
        _require_company(connection, company_id)
        query = query.where(api_keys.c.company_id == company_id)
    return connection.execute(query).mappings().all()


def revoke_key(connection: Connection, key_id: UUID) -> tuple[datetime, bool]:
    """Revokes the key. Returns when it was revoked, and whether that was just now. Raises Failure
    for an unknown key.
    """
    unrevoked = (api_keys.c.id == key_id) & api_keys.c.revoked_at.is_(None)
    now = (
        update(api_keys)
        .where(unrevoked)
        .values(revoked_at=func.clock_timestamp())
        .returning(api_keys.c.revoked_at)
    )
    if revoked := connection.scalar(now):
        return revoked, True
    if earlier := connection.scalar(select(api_keys.c.revoked_at).where(api_keys.c.id == key_id)):
        return earlier, False
    raise Failure(f"no key has the id {key_id}", "the ids are in: leadsweep keys list")


def count_leads(connection: Connection, campaign_id: str) -> int:
    """How many leads the campaign has. Raises Failure for an unknown campaign."""
    require_campaign(connection, campaign_id)
    return (
        connection.scalar(
            select(func.count()).select_from(leads).where(leads.c.campaign_id == campaign_id)
        )
        or 0
    )


def list_leads(connection: Connection, campaign_id: str, limit: int) -> Sequence[RowMapping]:
    """The first leads of the campaign, along two indexes: those with an external id, sorted by it,
    then the others, sorted by phone number. Raises Failure for an unknown campaign.
    """
    require_campaign(connection, campaign_id)
    named, unnamed = leads.c.external_id.is_not(None), leads.c.external_id.is_(None)
    query = select(leads).where(leads.c.campaign_id == campaign_id)
    by_id = query.where(named).order_by(leads.c.external_id).limit(limit)
    rows = list(connection.execute(by_id).mappings())
    by_number = query.where(unnamed).order_by(leads.c.phone_number).limit(limit - len(rows))
    return [*rows, *connection.execute(by_number).mappings()]
