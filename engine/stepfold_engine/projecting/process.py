"""The projector's process: ``python -m stepfold_engine.projecting.process FOLDER ADDRESS``."""

import logging
import os
import sys
from pathlib import Path

from stepfold_engine.sources import FolderSource
from stepfold_projections.keeping import tables_of
from stepfold_projections.service import Service


def main(folder: Path, address: str) -> None:
    """Keep the tables of a folder, and answer at an address, until standard input ends."""
    logging.basicConfig(format="projector: %(message)s", level=logging.WARNING)
    Service(tables_of(folder), lambda: FolderSource(folder), None).run(address)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
    # DuckDB's module talks of leaks when the interpreter is taken down in order.
    os._exit(0)
