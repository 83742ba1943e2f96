"""The file of tables: facts folded in, rows and offsets in one transaction.

Rules:

* Whatever is taken in moves the offset in the same transaction; so after a crash nothing is
  missing and nothing is there twice.
* One process has the file open; others ask it, or open a published copy.
"""

# pyright: reportUnknownMemberType=false

from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path

import duckdb

from stepfold_projections.acceptance import Cursor
from stepfold_projections.arrow import ArrowTable, pa
from stepfold_projections.columns import SHAPES, empty
from stepfold_projections.definitions import SHAPE, definitions, named, with_older

VERSION = 3
"""Of the tables; a file of another version is made anew."""

MEMORY = "384MB"
"""What DuckDB may use for folding and for questions together."""

SPILL = "2GB"
"""What DuckDB may write to disk beside the file while it sorts or joins."""

THREADS = 2
_ONCE = {
    "started": "run", "heads": "run", "finished": "run", "reruns": "run", "began": "run, step",
    "ended": "run, step",
}  # fmt: skip

Place = tuple[str, int]
Db = duckdb.DuckDBPyConnection


class OtherVersionError(Exception):
    """The file's tables are of another version of the projections."""


class BusyError(Exception):
    """Another process has the tables open."""


def connect(path: Path, config: Mapping[str, str | bool | int | float | list[str]]) -> Db:
    """Open a file of tables, so that DuckDB itself refuses what a question may not do.

    Raises:
        BusyError: another process has it open.
    """
    try:
        db = duckdb.connect(str(path), config=dict(config))
    except duckdb.IOException as error:
        if "lock" in str(error):
            text = f"{path} is in use by another process; while an engine runs, ask it (--url)"
            raise BusyError(text) from error
        raise
    folder = str(history_of(path)).replace("'", "''")
    db.execute(f"SET allowed_directories = ['{folder}']")
    db.execute("SET enable_external_access = false")
    db.execute("SET lock_configuration = true")
    return db


def history_of(path: Path) -> Path:
    """Return the folder of the finished history that belongs to a file of tables."""
    return (path.parent / "history").absolute()


def statements(name: str) -> list[str]:
    """Return the statements of a file of SQL, without comments, in order."""
    text = (resources.files("stepfold_projections") / "sql" / f"{name}.sql").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("--")]
    whole = "\n".join(lines).replace("{shape}", SHAPE)
    return [s for s in (part.strip() for part in whole.split(";")) if s]


_WHAT_ELSE = (
    "SELECT EXISTS (FROM b_operations WHERE run_ended_at IS NOT NULL AND kind <> 'step'),"
    " EXISTS (FROM open.attempts)"
)


@contextmanager
def open_stale(path: Path) -> Generator[Db]:
    """Open tables of another version, to be asked while new ones are made."""
    db = connect(path, {"memory_limit": MEMORY, "threads": THREADS})
    try:
        yield db
    finally:
        db.close()


class Store:
    """Writes the file. One thread at a time may call; ``reader()`` is for others."""

    def __init__(self, path: Path, *, memory: str = MEMORY, spill: str = SPILL) -> None:
        """Open the file, making it if need be.

        Raises:
            OtherVersionError: it was made by another version of the projections.
        """
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        config: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": memory,
            "threads": THREADS,
            "max_temp_directory_size": spill,
            "preserve_insertion_order": "false",
            "temp_directory": str(path.with_name(path.name + ".spill")),
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "python_enable_replacements": "false",
        }
        self.db = connect(path, config)
        try:
            self._prepare()
        except BaseException:
            self.db.close()
            raise
        self._fold = statements("fold")
        self._fold_operations = statements("fold_operations")
        self._fold_attempts = statements("fold_attempts")

    def _prepare(self) -> None:
        known = self.db.execute(
            "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'open'"
        ).fetchall()
        if known == [(0,)]:
            with self.transaction():
                for statement in statements("schema"):
                    self.db.execute(statement)
                self.db.execute("INSERT INTO open.facts VALUES ('version', ?)", [str(VERSION)])
        found = self.fact("version")
        if found != str(VERSION):
            raise OtherVersionError(f"{self.path}: version {found}, this is {VERSION}")
        with self.transaction():
            self.refresh_views()  # of this release; the tables are of this version anyway

    def older(self) -> dict[str, list[str]]:
        """Return the files of finished history, by table."""
        rows = self.db.execute("SELECT name, file FROM open.files ORDER BY name, file").fetchall()
        found: dict[str, list[str]] = {}
        for name, file in rows:
            found.setdefault(name, []).append(str(history_of(self.path) / file))
        return found

    def refresh_views(self) -> None:
        """Make the tables and views that people see; part of a transaction."""
        for name, query in definitions(self.older(), summed=True).items():
            self.db.execute(f"CREATE OR REPLACE VIEW main.{name} AS {query}")

    def sum_up(self) -> None:
        """Make what is summed up of finished history anew, from its rows; part of a transaction."""
        older = self.older()
        steps, runs = (with_older(f"SELECT * FROM past.{t}", older) for t in ("steps", "runs"))
        self._replace_sums(named("sums")["of_rows"].format(steps=f"({steps})"))
        failed = named("sums")["failed"].format(steps=f"({steps})", runs=f"({runs})", shape=SHAPE)
        self.db.execute("DELETE FROM past.failed")
        self.db.execute(f"INSERT INTO past.failed {failed}")

    def shorten_sums(self) -> None:
        """Put sums of the same step and bucket together."""
        with self.transaction():
            self._replace_sums(named("sums")["of_sums"])

    def _replace_sums(self, query: str) -> None:
        self.db.execute(f"CREATE OR REPLACE TEMP TABLE new_sums AS {query}")
        self.db.execute("DELETE FROM past.step_sums")
        self.db.execute("INSERT INTO past.step_sums SELECT * FROM new_sums")
        self.db.execute("DROP TABLE new_sums")

    def fact(self, name: str) -> str | None:
        """Return something that the file says of itself."""
        row = self.db.execute("SELECT value FROM open.facts WHERE name = ?", [name]).fetchall()
        return str(row[0][0]) if row else None

    def source(self, name: str) -> str:
        """Return the name of the log that the tables are of; new tables are of this one."""
        if (known := self.fact("source")) is None:
            self.db.execute("INSERT INTO open.facts VALUES ('source', ?)", [name])
            return name
        return known

    @contextmanager
    def transaction(self) -> Generator[None]:
        """Commit what the block does, or nothing of it."""
        self.db.execute("BEGIN")
        try:
            yield
            self.db.execute("COMMIT")
        except BaseException:
            with suppress(duckdb.Error):
                self.db.execute("ROLLBACK")
            raise

    def cursors(self) -> dict[Place, Cursor]:
        """Return how far each partition of each topic was taken in."""
        rows = self.db.execute("SELECT * FROM open.offsets").fetchall()
        return {(row[0], row[1]): Cursor(*row[2:]) for row in rows}

    def move(self, cursors: Mapping[Place, Cursor]) -> None:
        """Note how far partitions are taken in; part of the transaction that does so."""
        self.db.executemany(
            "DELETE FROM open.offsets WHERE topic = ? AND partition = ?", list(map(list, cursors))
        )
        rows = [
            [*place, c.offset, c.epoch, c.seq, c.broken, c.partial] for place, c in cursors.items()
        ]
        self.db.executemany("INSERT INTO open.offsets VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    def fold(self, facts: Mapping[str, ArrowTable], partial: set[int]) -> None:
        """Fold facts of journals; part of a transaction.

        Args:
            facts: a table for each kind of fact.
            partial: the journals whose reading began at a round that is not over.
        """
        if not any(len(table) for table in facts.values()):
            return
        for name in SHAPES:
            self.db.register(f"given_{name}", facts[name])
            once = _ONCE.get(name) if partial else None
            ranked = f"row_number() OVER (PARTITION BY {once} ORDER BY n)"
            first = f"QUALIFY {ranked} = 1" if once else ""
            self.db.execute(
                f"CREATE OR REPLACE TEMP VIEW {name} AS SELECT * FROM given_{name} {first}"
            )
        numbers = pa.table({"partition": pa.array(sorted(partial), pa.int64())})
        self.db.register("partial_partitions", numbers)
        for statement in self._fold:
            self.db.execute(statement)
        # Most batches are of steps that were done at the first try: to plan a statement takes
        # longer than to find that there is nothing for it.
        ((operations, attempts),) = self.db.execute(_WHAT_ELSE).fetchall()
        if operations:
            for statement in self._fold_operations:
                self.db.execute(statement)
        if attempts or len(facts["tried"]):
            for statement in self._fold_attempts:
                self.db.execute(statement)

    def note_gap(self, partition: int) -> None:
        """Note that facts of this journal were missed; part of a transaction.

        Unfinished runs that are not restated afterwards have ended, nobody knows how.
        """
        self.db.execute(
            "UPDATE open.runs SET partial = true, missed = true WHERE partition = ?", [partition]
        )

    def close_gap(self, partition: int, at_ms: int) -> None:
        """End the runs that a whole round did not restate; part of a transaction."""
        lost = self.db.execute(
            "SELECT run, partition FROM open.runs WHERE missed AND partition = ?", [partition]
        ).fetchall()
        if not lost:
            return
        facts = {name: empty(name) for name in SHAPES}
        rows = [
            {"n": n, "at_ms": at_ms, "run": run, "partition": partition, "status": "unknown"}
            for n, (run, _) in enumerate(lost)
        ]
        facts["finished"] = pa.Table.from_pylist(rows, schema=facts["finished"].schema)
        self.fold(facts, {partition})

    def add_events(self, events: ArrowTable) -> None:
        """Add events; part of a transaction."""
        self.db.register("given_events", events)
        self.db.execute(
            "INSERT INTO past.events SELECT event, sender_id, name, TRY_CAST(data AS JSON),"
            " TRY_CAST(user_data AS JSON),"
            ' epoch_ms(nullif(ts, 0)), epoch_ms(received_ms), partition, "offset"'
            " FROM given_events"
        )

    def add_dead_letters(self, letters: ArrowTable) -> None:
        """Add dead letters; part of a transaction."""
        self.db.register("given_letters", letters)
        self.db.execute(
            "INSERT INTO past.dead_letters SELECT source, error, value, epoch_ms(at_ms),"
            ' partition, "offset" FROM given_letters'
        )

    def close(self) -> None:
        """Let go of the file."""
        self.db.close()
