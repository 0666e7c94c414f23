"""The API on uvicorn, one process: `leadsweep api`, or `python -m api` in Leadsweep's folder."""

import argparse
import asyncio
import resource
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import uvicorn
from fastapi import FastAPI

from api.app import create_app
from api.http.protocol import MAX_CONNECTIONS, Connection, Reader
from shared.process import logs
from shared.process.environment import look_at_servers, process_settings
from shared.process.streams import guard_streams

if TYPE_CHECKING:
    from api.http.services import Services

# File descriptors: the connections of callers, and our own to the servers.
OPEN_FILES = MAX_CONNECTIONS + 200
STOP_TIMEOUT = 5  # seconds for requests in hand
UPLOADS_END_AFTER = 3.0  # seconds for files, so that their senders still get an answer


class Server(uvicorn.Server):
    """uvicorn's server, which looks at slow callers once a second. When it stops, it does not cut
    calls off that wait for a job: it answers them at once.
    """

    def __init__(self, app: FastAPI, config: uvicorn.Config) -> None:
        """`config` is that of `app`."""
        super().__init__(config)
        self._app = app

    async def on_tick(self, counter: int) -> bool:
        """Looks at every connection once a second; uvicorn ticks ten times as often."""
        if counter % 10 == 0:
            for connection in tuple(self.server_state.connections):
                cast("Connection", connection).look()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends the waiting for jobs, then serves what is in hand. Files that are still coming in
        have UPLOADS_END_AFTER.
        """
        services: Services = self._app.state.services
        services.waiter.end()
        asyncio.get_running_loop().call_later(UPLOADS_END_AFTER, services.receiver.end)
        await super().shutdown(sockets)


def main() -> None:
    """Serves at the address that the arguments of the process name."""
    guard_streams()
    parser = argparse.ArgumentParser(prog="python -m api", description=__doc__)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)"
    )
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: 8000)")
    address = parser.parse_args()
    serve(address.host, address.port)


def serve(host: str, port: int) -> None:
    """Serves until SIGTERM or SIGINT; requests in hand have five seconds to end.

    Ends the process with exit code 1 where it cannot be started.
    """
    guard_streams()
    settings = process_settings(secrets=True)
    logs.configure(settings)
    look_at_servers(settings)
    _allow_files()
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="uvloop",
        http=cast("Any", Reader),  # uvicorn's type is that of the other kind of asyncio protocol
        log_config=None,
        log_level="error",  # it warns of every request that is not HTTP
        access_log=False,
        server_header=False,
        proxy_headers=False,  # a caller is the address that speaks to us, not the one it names
        timeout_graceful_shutdown=STOP_TIMEOUT,
    )
    server = Server(app, config)
    with suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(1)


def _allow_files() -> None:
    """Raises the limit on open files: shells often set it to 1024, and let a process raise it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < OPEN_FILES:
        allowed = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


if __name__ == "__main__":
    main()
