"""What routes work with: what an API process opens at its start, and closes at its end."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from api.files.receive import Receiver
    from api.http.auth import Authenticator
    from api.http.places import Places
    from api.http.rate_limits import Limiter
    from api.http.request import Bodies
    from api.jobs.waiting import Waiter
    from shared.broker.sender import Sender
    from shared.settings import Settings


@dataclass
class Services:
    """One of each for a process. Its calls share these, and nothing else."""

    settings: "Settings"
    engine: "AsyncEngine"  # each statement is a transaction of its own
    limiter: "Limiter"
    authenticator: "Authenticator"
    bodies: "Bodies"
    exports: "Places"
    receiver: "Receiver"
    waiter: "Waiter"
    sender: "Sender"
