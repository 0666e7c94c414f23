"""The leads and the request of `leadsweep demo`, and what must become of each entry.

They are made by counting, not by chance, so that runs can be compared. What is expected stands
beside each kind of entry; it is not computed by the rules that it checks.
"""

from collections.abc import Iterator
from typing import NamedTuple

COMPANY, CAMPAIGN, OTHER_CAMPAIGN = "demo-company", "demo-campaign", "other-campaign"
LEADS = 10_000
OTHER_LEADS = 100


class Kind(NamedTuple):
    """Entries of the request that are alike. `reason` says why they will not be found; None means
    that they will be deleted.
    """

    words: str
    entries: list[dict[str, str]]
    reason: str | None = None

    @property
    def identifiers(self) -> list[str]:
        """The identifiers by which the API names the entries."""
        return [entry.get("externalId") or entry["phoneNumber"] for entry in self.entries]


def request() -> list[Kind]:
    """1,000 entries, of which 950 name a lead of the campaign that is still there."""
    return [
        Kind("by externalId", [{"externalId": _external_id(n)} for n in range(500)]),
        Kind(
            "by phoneNumber, as people write them",
            [{"phoneNumber": _as_people_write(n)} for n in range(500, 800)],
        ),
        Kind(
            "by both",
            [
                {"externalId": _external_id(n), "phoneNumber": _phone_number(n)}
                for n in range(800, 950)
            ],
        ),
        Kind(
            "that nobody has", [{"externalId": f"NOBODY-{n:02}"} for n in range(20)], "noSuchLead"
        ),
        Kind("of another campaign", [{"externalId": _other(n)} for n in range(15)], "noSuchLead"),
        Kind("named twice", [{"externalId": _external_id(n)} for n in range(15)], "duplicate"),
    ]


def csv_of_leads() -> Iterator[str]:
    """The campaign's leads, as an operator would have them in a file."""
    yield "externalId,phoneNumber,firstName\n"
    for n in range(LEADS):
        yield f"{_external_id(n)},{_phone_number(n)},Lead {n}\n"


def csv_of_other_leads() -> Iterator[str]:
    """Leads of another campaign than the request's, which must stay."""
    yield "externalId\n"
    for n in range(OTHER_LEADS):
        yield f"{_other(n)}\n"


def _external_id(n: int) -> str:
    return f"CRM-{n:05}"


def _phone_number(n: int) -> str:
    return f"+1555{n:07}"


def _as_people_write(n: int) -> str:
    """The same number as _phone_number(n), written in another way."""
    return f"+1 (555) {n // 10000:03}-{n % 10000:04}"


def _other(n: int) -> str:
    return f"OTHER-{n:02}"
