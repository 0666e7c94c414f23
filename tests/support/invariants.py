"""What must hold after any fault: the one checker that all fault tests end with. It reads what
callers can read, and leads.
"""

from collections import Counter

from tests.support import oracle

FINAL = {"completed", "failed", "cancelled"}
COUNTED = ("deleted", "wouldDelete", "restored", "conflict", "notFound", "unprocessed", "invalid")
COUNTED_AS = {"archived": "deleted"}
TAKEN = {"deleted", "archived"}


def check(jobs, leads_before, leads_after):
    """Checks finished `jobs`, each (entries as submitted, status answer, all results), against the
    leads before and after.

    Leads are oracle.Lead; entries are pairs of (externalId, phoneNumber).
    """
    gone = set(leads_before) - set(leads_after)
    assert not set(leads_after) - set(leads_before), "leads appeared from nowhere"
    deletions = []
    for entries, status, results in jobs:
        _check_job(entries, status, results)
        taken = [r for r in results if r["outcome"] in TAKEN]
        deletions += [
            lead for r in taken if (lead := _lead_taken(r, status["campaignId"], leads_before))
        ]
    counted = Counter(deletions)
    assert not {lead: n for lead, n in counted.items() if n > 1}, "a lead was deleted twice"
    assert set(counted) == gone, "the leads that are gone are not those that were reported deleted"


def check_against_oracle(entries, results, leads_before, leads_after, *, campaign, **options):
    """One job alone over its leads: entry by entry what the contract says."""
    verdict = oracle.judge(entries, leads_before, campaign=campaign, **options)
    assert [(r["outcome"], r["matchedBy"], r["reason"]) for r in results] == verdict.outcomes
    assert set(leads_after) == verdict.remaining


def _check_job(entries, status, results):
    assert status["status"] in FINAL
    assert status["total"] == status["processed"] == len(entries) == len(results)
    assert sum(status[word] for word in COUNTED) == status["total"]
    assert (status["status"] in {"failed", "cancelled"}) == (status["unprocessed"] > 0)
    assert (status["status"] == "failed") == (status["error"] is not None)
    for word in COUNTED:
        identifiers = [
            r["identifier"] for r in results if COUNTED_AS.get(r["outcome"], r["outcome"]) == word
        ]
        assert len(identifiers) == status[word]
        assert list(filter(None, identifiers)) == status[f"{word}Identifiers"], (
            "of who was erased nobody knows them"
        )
    assert sum(result["erasedFromArchive"] for result in results) == status["erasedFromArchive"]
    assert sum(result["reason"] == "lacksPlus" for result in results) == status["lacksPlus"]
    assert (
        sum(result["outcome"] == "wouldDelete" and bool(result["reason"]) for result in results)
        == status["otherExternalId"]
    )
    for index, ((external_id, number), result) in enumerate(zip(entries, results, strict=True)):
        assert result["index"] == index
        assert (result["externalId"], result["phoneNumber"]) == (external_id, number)


def _lead_taken(result, campaign, leads_before):
    """None where it was in the archive only."""
    if result["matchedBy"] == "externalId":
        wanted = oracle.canonical_external_id(result["externalId"])
        found = [
            lead
            for lead in leads_before
            if lead.campaign == campaign and lead.external_id == wanted
        ]
    else:
        wanted = oracle.canonical_phone_number(result["phoneNumber"])
        found = [
            lead
            for lead in leads_before
            if lead.campaign == campaign and lead.phone_number == wanted
        ]
    if result["erasedFromArchive"] and not found:
        return None
    assert len(found) == 1, "a deletion was reported for a lead that was not there"
    return found[0]
