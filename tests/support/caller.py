"""A caller of the API, as far as tests need one."""

import httpx2

from tests.support.invariants import FINAL
from tests.support.stack import wait_for


class Caller:
    """Speaks to one API with one key."""

    def __init__(self, url, key):
        self.http = httpx2.Client(
            base_url=url, headers={"x-api-key": key}, timeout=30, trust_env=False
        )

    def submit(self, entries, campaign="cmp", key=None, **options):
        """Submits pairs of (externalId, phoneNumber), with an idempotency key if one is given; the
        job's id. It must be 202.
        """
        leads = [
            {"externalId": e}
            if n is None
            else {"phoneNumber": n}
            if e is None
            else {"externalId": e, "phoneNumber": n}
            for e, n in entries
        ]
        headers = {"idempotency-key": key} if key else {}
        answer = self.http.post(
            "/api/v1/leads/bulk-delete",
            json={"campaignId": campaign, "leads": leads} | options,
            headers=headers,
        )
        assert answer.status_code == 202, answer.text
        return answer.json()["data"]["jobId"]

    def act(self, job_id, action, **headers):
        """The answer to an action."""
        return self.http.post(f"/api/v1/jobs/{job_id}/{action}", headers=headers)

    def status(self, job_id):
        """The job as it stands."""
        answer = self.http.get(f"/api/v1/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def results(self, job_id):
        """All per-lead results."""
        answer = self.http.get(f"/api/v1/jobs/{job_id}/results", params={"limit": 10_000})
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]["items"]

    def jobs(self):
        """The ids of all jobs there are."""
        return [
            job["jobId"]
            for job in self.http.get("/api/v1/jobs", params={"limit": 200}).json()["data"]["items"]
        ]

    def finished(self, job_id, seconds=60):
        """The status of the job once it is final."""
        return wait_for(
            lambda: (status := self.status(job_id))["status"] in FINAL and status, seconds
        )
