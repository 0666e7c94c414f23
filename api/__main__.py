"""`python -m api --host H --port P`: the API on uvicorn, one process."""

import argparse

import uvicorn

from api.app import create_app
from api.protocol import BoundedProtocol
from shared import logs
from shared.environment import process_settings


def main() -> None:
    """Serves until SIGTERM or SIGINT; requests in hand have five seconds to end."""
    parser = argparse.ArgumentParser(prog="python -m api", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: 8000)")
    address = parser.parse_args()
    settings = process_settings()
    logs.configure(settings)
    uvicorn.run(
        create_app(settings),
        host=address.host,
        port=address.port,
        loop="uvloop",
        http=BoundedProtocol,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # an address is whoever speaks to us, not whom it says it is
        timeout_graceful_shutdown=5,
    )


if __name__ == "__main__":
    main()
