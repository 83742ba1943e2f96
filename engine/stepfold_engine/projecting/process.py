"""The projector's process: ``python -m stepfold_engine.projecting.process``.

The first line of its standard input says which tables it keeps, of which log: secrets of Kafka's
clients show in no list of processes.
"""

import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stepfold_engine.projecting.recorder import JournalRecorder
from stepfold_engine.sources import FolderSource
from stepfold_projections.keeping import tables_of
from stepfold_projections.service import Service
from stepfold_projections.source import Source


def main() -> None:
    """Keep the tables of a log, and answer at an address, until standard input ends."""
    logging.basicConfig(format="projector: %(message)s", level=logging.WARNING)
    asked: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    folder = Path(asked["folder"])
    source = source_of(folder, asked["cluster"])
    Service(tables_of(folder), source, None, JournalRecorder).run(asked["address"])


def source_of(folder: Path, cluster: Mapping[str, Any] | None) -> Callable[[], Source]:
    """Return what opens the log that a folder's tables are made from."""
    if cluster is None:
        return lambda: FolderSource(folder)
    from stepfold_engine.kafka.properties import ClientProperties  # noqa: PLC0415 - an extra
    from stepfold_engine.kafka.topics import TopicNames  # noqa: PLC0415
    from stepfold_engine.sources.cluster import ClusterSource  # noqa: PLC0415

    properties = ClientProperties(cluster["properties"])
    names = TopicNames(cluster["namespace"], cluster["events_prefix"])
    return lambda: ClusterSource(properties, names)


if __name__ == "__main__":
    main()
    # DuckDB's module talks of leaks when the interpreter is taken down in order.
    os._exit(0)
