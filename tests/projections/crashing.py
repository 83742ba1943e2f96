"""Takes in a log, a few records at a time, until it is killed or done: ``FOLDER BATCH``."""

import os
import sys
from pathlib import Path

from stepfold_engine.sources import FolderSource
from stepfold_projections.keeping import tables_of
from stepfold_projections.projector import Projector
from stepfold_projections.store import Store


def main(folder: Path, batch: int) -> None:
    projector = Projector(FolderSource(folder), Store(tables_of(folder)))
    print("open", flush=True)
    while projector.step(batch):
        pass
    print("done", flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
