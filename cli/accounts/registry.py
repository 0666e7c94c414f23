"""Companies, campaigns and API keys: the statements behind the commands, `up` and `demo`.

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
    """A key just made: the only moment at which `key` itself is known."""

    id: UUID
    key: str
    created_at: datetime
    expires_at: datetime | None


class KeyTerms(NamedTuple):
    """What a key may do. `expires` is a time, or a duration from now; None: never. Rates as
    `5000/hour`; None: the server's.
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
    """The secret that signs a company's callbacks, and until when the one before signs too.

    A company without one, and one that is to `rotate`, gets a new one. Raises Failure for an
    unknown company or another key.
    """
    _require_company(connection, company_id)
    named, present = companies.c.id == company_id, companies.c.webhook_secret
    new: dict[str, Any] = {"webhook_secret": vault.lock(new_secret())}
    if rotate:
        old = companies.c.old_webhook_secrets
        new["old_webhook_secrets"] = case((present.is_(None), old), else_=retired(present, old))
        connection.execute(update(companies).where(named).values(new))
    else:
        connection.execute(update(companies).where(named, present.is_(None)).values(new))
    locked, old_secrets = connection.execute(
        select(present, companies.c.old_webhook_secrets).where(named)
    ).one()
    try:
        return vault.unlock(locked), last_end(old_secrets)
    except ValueError as error:
        raise Failure(
            str(error), "set the key that the API has; older keys after a comma"
        ) from None


def list_companies(connection: Connection) -> Sequence[RowMapping]:
    """`id` and `name` of each."""
    return (
        connection.execute(select(companies.c.id, companies.c.name).order_by(companies.c.id))
        .mappings()
        .all()
    )


def list_campaigns(connection: Connection, company_id: str | None = None) -> Sequence[RowMapping]:
    """All columns. Raises Failure for an unknown company."""
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
    """Each secret that signs or has signed, those in use first: whose it is, and the secret. Other
    keys' ones are left out.
    """
    by_company = select(companies.c.id, companies.c.webhook_secret, companies.c.old_webhook_secrets)
    by_webhook = select(
        webhooks.c.id, webhooks.c.company_id, webhooks.c.secret, webhooks.c.old_secrets
    )
    owners = [
        (f"the secret of company {row[0]}", *row[1:]) for row in connection.execute(by_company)
    ]
    owners += [
        (f"the secret of webhook {row[0]} of company {row[1]}", *row[2:])
        for row in connection.execute(by_webhook)
    ]
    locked = [(owner, secret) for owner, secret, _ in owners if secret]
    locked += [
        (f"{owner} before its last rotation", old["secret"].encode())
        for owner, _, olds in owners
        for old in olds
    ]
    for owner, secret in locked:
        with suppress(ValueError):
            yield owner, vault.unlock(secret)


def create_campaign(
    connection: Connection, campaign_id: str, company_id: str, name: str = ""
) -> None:
    """Adds a campaign. Raises Failure if the id is taken, by whichever company, or the company
    unknown.
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
    """Raises Failure unless the campaign exists and, where one is named, is the company's."""
    owner = connection.scalar(select(campaigns.c.company_id).where(campaigns.c.id == campaign_id))
    if owner is None:
        example = f"leadsweep campaigns create {campaign_id} --company {company_id or 'COMPANY'}"
        raise Failure(f"campaign {campaign_id} does not exist", f"create it: {example}")
    if company_id not in {None, owner}:
        raise Failure(f"campaign {campaign_id} belongs to company {owner}, not to {company_id}")


def set_off_peak(connection: Connection, campaign_id: str, window: str | None) -> None:
    """Gives the campaign its own off-peak window; None: the server's. Raises Failure for an unknown
    campaign.
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
    """Changes whose phone numbers are meant that begin without a +; None: nobody's. Raises Failure
    for an unknown campaign.
    """
    require_campaign(connection, campaign_id)
    connection.execute(
        update(campaigns).where(campaigns.c.id == campaign_id).values(phone_region=region)
    )


def phone_region(connection: Connection, campaign_id: str) -> str | None:
    """Whose phone numbers are meant, or None. Raises Failure for an unknown campaign."""
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
    """The keys, oldest first, without what they are: all columns but the hash, and `state` (active,
    expired or revoked).
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
    """When the key was revoked, and whether it was just now. Raises Failure for an unknown key."""
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
    """The first leads of the campaign, along two indexes: by external id, then those without by
    number. Raises Failure.
    """
    require_campaign(connection, campaign_id)
    named, unnamed = leads.c.external_id.is_not(None), leads.c.external_id.is_(None)
    query = select(leads).where(leads.c.campaign_id == campaign_id)
    by_id = query.where(named).order_by(leads.c.external_id).limit(limit)
    found = list(connection.execute(by_id).mappings())
    by_number = query.where(unnamed).order_by(leads.c.phone_number).limit(limit - len(found))
    return [*found, *connection.execute(by_number).mappings()]
