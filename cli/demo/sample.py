"""The leads and the request of `leadsweep demo`, and what must become of each entry.

Made by counting, not by chance: a run can be compared with the one before, and the expectation is
written down next to each kind of entry rather than computed by the rules that it is to check.
"""

from collections.abc import Iterator
from typing import NamedTuple

COMPANY, CAMPAIGN, OTHER_CAMPAIGN = "demo-company", "demo-campaign", "other-campaign"
LEADS = 10_000
OTHER_LEADS = 100


class Kind(NamedTuple):
    """Some entries of the request that are alike. `reason` is why they will not be found; None:
    they will be deleted.
    """

    words: str
    entries: list[dict[str, str]]
    reason: str | None = None

    @property
    def identifiers(self) -> list[str]:
        """What the API will call them."""
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
    """Leads of a campaign that the request does not name, so that they must stay."""
    yield "externalId\n"
    for n in range(OTHER_LEADS):
        yield f"{_other(n)}\n"


def _external_id(n: int) -> str:
    return f"CRM-{n:05}"


def _phone_number(n: int) -> str:
    return f"+1555{n:07}"


def _as_people_write(n: int) -> str:
    """The same number as _phone_number(n) for whoever dials it."""
    return f"+1 (555) {n // 10000:03}-{n % 10000:04}"


def _other(n: int) -> str:
    return f"OTHER-{n:02}"
