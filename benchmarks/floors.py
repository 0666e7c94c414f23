"""The other sides: what is the least that must be done (plain SQL, a bare ASGI app), and how it is
usually done (an ORM).
"""

import multiprocessing
import os
import time

import psycopg
from celery import Celery
from kombu import Exchange, Queue
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from benchmarks.ground import CAMPAIGN

BY_EXTERNAL_ID = "DELETE FROM leads WHERE campaign_id = %s AND external_id = ANY(%s)"
BY_PHONE_NUMBER = "DELETE FROM leads WHERE campaign_id = %s AND phone_number = ANY(%s)"


def plain_delete(connection, external_ids, phone_numbers):
    """Two DELETEs and a COMMIT for a thousand leads."""
    connection.execute(BY_EXTERNAL_ID, (CAMPAIGN, [text for text in external_ids if text]))
    connection.execute(BY_PHONE_NUMBER, (CAMPAIGN, [text for text in phone_numbers if text]))
    connection.commit()


def drain_plainly(url, jobs, connections=2):
    """Seconds that `connections` connections, each in a process of its own, need for all jobs'
    leads.
    """
    ready, go = multiprocessing.Barrier(connections + 1), multiprocessing.Barrier(connections + 1)
    workers = [
        multiprocessing.Process(target=_drain_part, args=(url, jobs[part::connections], ready, go))
        for part in range(connections)
    ]
    for worker in workers:
        worker.start()
    ready.wait()
    go.wait()
    started = time.perf_counter()
    for worker in workers:
        worker.join()
    return time.perf_counter() - started


def _drain_part(url, jobs, ready, go):
    with psycopg.connect(url) as connection:
        connection.execute("SELECT 1")
        connection.commit()
        ready.wait()
        go.wait()
        for external_ids, phone_numbers in jobs:
            plain_delete(connection, external_ids, phone_numbers)


class Table(DeclarativeBase):
    """The ORM's registry."""


class Lead(Table):
    """A lead, mapped as one would."""

    __tablename__ = "leads"
    id: Mapped[int] = mapped_column(primary_key=True)
    campaign_id: Mapped[str]
    external_id: Mapped[str | None]
    phone_number: Mapped[str | None]


usual = Celery("usual", broker=os.environ.get("BROKER_URL"))
usual.conf.update(
    task_queues=[Queue("usual", Exchange(""), routing_key="usual")],
    task_default_queue="usual",
    task_ignore_result=True,
    task_acks_late=True,
    worker_prefetch_multiplier=1,
)
_engines = {}


@usual.task(name="usual.delete_leads")
def delete_leads(url, external_ids, phone_numbers):
    """The usual way: look each lead up, delete it, commit once at the end."""
    if url not in _engines:
        _engines[url] = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    not_found = []
    with Session(_engines[url]) as session:
        for external_id, phone_number in zip(external_ids, phone_numbers, strict=True):
            query = session.query(Lead).filter(Lead.campaign_id == CAMPAIGN)
            lead = query.filter(Lead.external_id == external_id).first() if external_id else None
            if lead is None and phone_number:
                lead = query.filter(Lead.phone_number == phone_number).first()
            if lead is None:
                not_found.append(external_id or phone_number)
            else:
                session.delete(lead)
        session.commit()
    return len(not_found)
