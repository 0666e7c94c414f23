"""`python -m api --host H --port P`: the API on uvicorn, one process."""

import argparse
import asyncio
import socket
import sys
from contextlib import suppress

import uvicorn
from fastapi import FastAPI

from api.app import create_app
from api.protocol import BoundedProtocol
from shared import logs
from shared.environment import look_at_servers, process_settings
from shared.streams import guard_streams

STOPS_WITHIN = 5  # seconds for requests in hand
UPLOADS_END = 3.0  # seconds for files, so that who sends one still gets an answer


class Server(uvicorn.Server):
    """Stops soon: calls that wait for a job are answered with what there is, not cut off."""

    def __init__(self, app: FastAPI, config: uvicorn.Config) -> None:
        """`config` is of `app`, which is started by then."""
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends the waiting, then serves what is in hand; a file that is still coming in has a little time to end."""
        self._app.state.waiter.end()
        asyncio.get_running_loop().call_later(UPLOADS_END, self._app.state.receiver.end)
        await super().shutdown(sockets)


def main() -> None:
    """Serves until SIGTERM or SIGINT; requests in hand have five seconds to end."""
    guard_streams()
    parser = argparse.ArgumentParser(prog="python -m api", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: 8000)")
    address = parser.parse_args()
    settings = process_settings(secrets=True)
    logs.configure(settings)
    look_at_servers(settings)
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=address.host,
        port=address.port,
        loop="uvloop",
        http=BoundedProtocol,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # an address is whoever speaks to us, not whom it says it is
        timeout_graceful_shutdown=STOPS_WITHIN,
    )
    server = Server(app, config)
    with suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        sys.exit(1)


if __name__ == "__main__":
    main()
