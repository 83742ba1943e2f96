"""The HTTP server, run inside the engine's event loop."""

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette

from stepfold_engine.errors import EngineError

BACKLOG = 2_048
STOP_S = 3
LOCAL = ("127.0.0.1", "localhost", "::1")


class CannotListenError(EngineError):
    """The address cannot be listened on; the message says why."""


class _Server(uvicorn.Server):
    """A server that leaves signals to the program it is part of."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Capture none."""
        yield


@asynccontextmanager
async def serving(app: Starlette, sockets: list[socket.socket]) -> AsyncGenerator[None]:
    """Serve while the block runs; let requests under way end behind it. Closes the sockets."""
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=STOP_S,
        backlog=BACKLOG,
    )
    # Cut-off requests are no news when the engine stops.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    server = _Server(config)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(server.serve(sockets))
            try:
                yield
            finally:
                server.should_exit = True
    finally:
        for opened in sockets:
            opened.close()


def listen(host: str, port: int) -> list[socket.socket]:
    """Open the sockets to serve on; for this machine alone, on IPv6 too where there is one.

    Args:
        host: a name or address.
        port: 0 chooses a free one.

    Raises:
        CannotListenError: the port is taken, or the address is not this machine's.
    """
    if host not in LOCAL:
        return [_open(host, port)]
    first = _open("127.0.0.1", port)
    sockets = [first]
    with contextlib.suppress(CannotListenError):
        sockets.append(_open("::1", first.getsockname()[1]))
    return sockets


def _open(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        opened = socket.socket(family, kind, protocol)
    except OSError as error:
        raise CannotListenError(f"cannot listen on {host}: {error}") from error
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(BACKLOG)
        opened.setblocking(False)
    except OSError as error:
        opened.close()
        if error.errno == errno.EADDRINUSE:
            text = f"port {port} is taken by another process; choose another with --port"
            raise CannotListenError(text) from error
        raise CannotListenError(f"cannot listen on {host}:{port}: {error}") from error
    return opened
