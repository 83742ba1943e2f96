"""Who keeps a folder's tables: where it is found, and how it is asked.

The process that has the tables open writes the address of its socket beside them. A request is a
length (4 bytes) and a JSON object; the reply a length and a JSON object, a length (8 bytes) and
what was asked for.
"""

import json
import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stepfold_projections.queries import QueryError

HEAD = struct.Struct(">I")
BODY = struct.Struct(">Q")
REPLY_BYTES_MAX = 1 << 30
ANSWER_S = 120.0
FILE = "address"


def announce(tables: Path, address: str) -> None:
    """Write where the tables' keeper is found."""
    new = tables.with_name(f".{FILE}.{os.getpid()}")
    new.write_text(address)
    new.replace(tables.with_name(FILE))


def address_of(tables: Path) -> str:
    """Return where the tables' keeper was found last; "" if there was none."""
    try:
        return tables.with_name(FILE).read_text()
    except OSError:
        return ""


def answers(tables: Path) -> bool:
    """Say whether there is a keeper."""
    address = address_of(tables)
    if not address:
        return False
    with socket.socket(socket.AF_UNIX) as tried:
        try:
            tried.connect(address)
        except OSError:
            return False
    return True


def ask(address: str, asked: Mapping[str, object]) -> tuple[dict[str, Any], bytes]:
    """Ask a keeper; return the head and the body of its reply.

    Raises:
        QueryError: it refused, or does not answer (503).
    """
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_S)
            connection.connect(address)
            data = json.dumps(asked).encode()
            connection.sendall(HEAD.pack(len(data)) + data)
            (size,) = HEAD.unpack(received(connection, HEAD.size))
            head: dict[str, Any] = json.loads(received(connection, size))
            (size,) = BODY.unpack(received(connection, BODY.size))
            if size > REPLY_BYTES_MAX:
                raise ConnectionError(f"a reply of {size} bytes")
            body = received(connection, size)
    except OSError as error:
        raise QueryError(f"who keeps the tables does not answer: {error}", 503) from error
    if head["status"] != 200:
        raise QueryError(str(head["error"]), int(head["status"]))
    return head, body


def received(connection: socket.socket, size: int) -> bytes:
    """Return so many bytes.

    Raises:
        ConnectionError: the other side is gone.
    """
    data = bytearray()
    while len(data) < size:
        part = connection.recv(min(size - len(data), 1 << 20))
        if not part:
            raise ConnectionError("the other side is gone")
        data += part
    return bytes(data)
