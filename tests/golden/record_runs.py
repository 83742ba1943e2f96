"""Records golden run files of this release. Files that are there are never changed.

Run ``python -m tests.golden.record_runs`` before a release; commit what it adds.
"""

import tempfile
from pathlib import Path

from stepfold_engine.cli.loading import Target, load
from stepfold_engine.wire.replies import release
from stepfold_schemas import codec
from stepfold_schemas.runfile import RunFile
from tests.behaviour.scenario import Variant, scenario
from tests.replaying.shop import exported

RUNS = Path(__file__).with_name("runs")


def main() -> None:
    """Record what is missing."""
    for event in ("go", "plain", "fails"):
        path = RUNS / f"{event}-{release()}.avro"
        if path.exists():
            continue
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            with scenario(
                Variant("embedded", False, 2), load(Target(RUNS / "app.py")), folder
            ) as s:
                run = s.ended(s.start_run(f"golden/{event}", {"number": 21}))
            runs = exported(folder, run.id, related=True)
        with path.open("wb") as out:
            codec.write_runs(out, RunFile(runs, release()))


if __name__ == "__main__":
    main()
