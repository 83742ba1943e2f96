"""A cluster that names no broker for a while, as one does whose brokers were too slow to say that
they live: a proxy of a real broker that answers the first questions for metadata itself."""

import asyncio
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

METADATA = 3
NOBODY = {
    # By version of the response, https://kafka.apache.org/protocol: no brokers, no topics.
    0: struct.pack(">ii", 0, 0),
    1: struct.pack(">iii", 0, -1, 0),
    2: struct.pack(">ihii", 0, -1, -1, 0),
    3: struct.pack(">iihii", 0, 0, -1, -1, 0),
}


class Fenced:
    """The proxy.

    Attributes:
        servers: where it listens.
        times: how many more questions are answered with no broker; the connection ends then.
    """

    def __init__(self, behind: str, times: int) -> None:
        self.servers, self.times = "", times
        self._host, _, port = behind.partition(":")
        self._port = int(port)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass requests of one connection on, one after the other."""
        behind, onward = await asyncio.open_connection(self._host, self._port)
        try:
            while True:
                request = await _framed(reader)
                key, version, correlation = struct.unpack_from(">hhi", request)
                if key == METADATA and self.times:
                    self.times -= 1
                    answer = struct.pack(">i", correlation) + NOBODY[min(version, 3)]
                    writer.write(struct.pack(">i", len(answer)) + answer)
                    await writer.drain()
                    return
                onward.write(struct.pack(">i", len(request)) + request)
                answer = await _framed(behind)
                writer.write(struct.pack(">i", len(answer)) + answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            onward.close()


async def _framed(reader: asyncio.StreamReader) -> bytes:
    (size,) = struct.unpack(">i", await reader.readexactly(4))
    return await reader.readexactly(size)


@asynccontextmanager
async def fenced(behind: str, times: int) -> AsyncGenerator[Fenced]:
    """Run the proxy of a broker while the block runs."""
    proxy = Fenced(behind, times)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.servers = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield proxy
