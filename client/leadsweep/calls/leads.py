"""Calls about single leads: creating, listing, finding and deleting them."""

from collections.abc import AsyncIterable, Iterable

import msgspec

from leadsweep.calls.methods import Retrying, call, listing, present, some_of
from leadsweep.models import Created, LeadsPage, NewLead, StoredLead
from leadsweep.steps import Call, Steps, answer_to, content_of

LEADS_IN_A_REQUEST = 1000
LEADS_IN_A_PAGE = 8000

_PATH = "/api/v1/leads"


class LeadCalls(Retrying):
    """Leads of a campaign, one by one."""

    @call
    def create_leads(
        self,
        campaign_id: str,
        leads: Iterable[NewLead] | AsyncIterable[NewLead],
        *,
        phone_region: str | None = None,
    ) -> Steps[Created]:
        """Creates any number of leads, 1000 in a request. Leads whose identifiers are taken are
        skipped. So are those of a request that had been done already when it was sent again.

        Raises Refused for the first request that has a mistake; earlier requests stay done.
        """
        entries = aiter(leads) if isinstance(leads, AsyncIterable) else iter(leads)
        total = Created(created=0, skipped=0, created_ids=[], skipped_identifiers=[])
        fields = present({"campaignId": campaign_id, "phoneRegion": phone_region})
        headers = {"content-type": "application/json"}
        while batch := (yield from some_of(entries, LEADS_IN_A_REQUEST)):
            body = msgspec.json.encode({**fields, "leads": batch})
            request = Call("POST", f"{_PATH}/bulk", headers=headers, content=body)
            answer = content_of((yield from answer_to(request, self._retries)), Created)
            total = Created(
                created=total.created + answer.created,
                skipped=total.skipped + answer.skipped,
                created_ids=total.created_ids + answer.created_ids,
                skipped_identifiers=total.skipped_identifiers + answer.skipped_identifiers,
            )
        return total

    @listing
    def leads(
        self, cursor: str | None, campaign_id: str
    ) -> Steps[tuple[list[StoredLead], str | None]]:
        """All leads of a campaign: first those with an externalId, then the others."""
        query = {"campaignId": campaign_id, "limit": str(LEADS_IN_A_PAGE), "cursor": cursor}
        request = Call("GET", _PATH, present(query))
        page = content_of((yield from answer_to(request, self._retries)), LeadsPage)
        return page.leads, page.cursor

    @call
    def find_leads(
        self,
        campaign_id: str,
        *,
        external_id: str | None = None,
        phone_number: str | None = None,
        phone_region: str | None = None,
    ) -> Steps[list[StoredLead]]:
        """The leads with this externalId or, where there is none, with this phone number: as a rule
        one or none.

        Raises ValueError where neither is given.
        """
        query = _named(campaign_id, external_id, phone_number, phone_region)
        answered = yield from answer_to(Call("GET", _PATH, query), self._retries)
        return content_of(answered, LeadsPage).leads

    @call
    def delete_lead(
        self,
        campaign_id: str,
        *,
        external_id: str | None = None,
        phone_number: str | None = None,
        phone_region: str | None = None,
    ) -> Steps[int]:
        """Deletes one lead at once, and its copies in the archive. Returns how many copies there
        were.

        Raises NotFound, also where an earlier attempt deleted the lead and its answer was lost;
        ValueError where neither identifier is given.
        """
        query = _named(campaign_id, external_id, phone_number, phone_region)
        answered = yield from answer_to(Call("DELETE", _PATH, query), self._retries)
        return content_of(answered, _Deleted).erased_from_archive


class _Deleted(msgspec.Struct, rename="camel"):
    deleted: bool
    erased_from_archive: int = 0


def _named(
    campaign_id: str, external_id: str | None, phone_number: str | None, phone_region: str | None
) -> dict[str, str]:
    if external_id is None and phone_number is None:
        raise ValueError("give an external_id or a phone_number")
    return present(
        {
            "campaignId": campaign_id,
            "externalId": external_id,
            "phoneNumber": phone_number,
            "phoneRegion": phone_region,
        }
    )
