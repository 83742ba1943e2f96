"""Questions: they read the tables and nothing else, within limits; what is documented is true."""

import re
import threading
from collections import Counter
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import duckdb
import pytest

from stepfold_engine.sources import FolderSource
from stepfold_projections.asking import Folder, opened
from stepfold_projections.catalogue import ALL, describe
from stepfold_projections.queries import Answer, Desk, Limits, QueryError
from stepfold_projections.report import gather, lines_of, page
from stepfold_projections.store import Store
from tests.projections.logs import simulated, write_log

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "sql.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Generator[Folder]:
    path = tmp_path_factory.mktemp("log")
    write_log(path, *simulated(2))
    with opened(path, lambda: FolderSource(path)) as found:
        yield found


REFUSED = (
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT read_text('/etc/passwd')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM 'https://example.com/x.csv'",
    "SELECT * FROM glob('/*')",
    "SELECT (SELECT count(*) FROM read_blob('/etc/passwd'))",
    'WITH "/etc/passwd" AS (SELECT * FROM "/etc/passwd") SELECT * FROM "/etc/passwd"',
    "WITH sqlite_master AS (SELECT * FROM sqlite_master) SELECT * FROM sqlite_master",
    "SELECT * FROM runs WHERE run IN (SELECT name FROM duckdb_settings())",
    "SELECT * FROM query('SELECT 1')",
    "SELECT * FROM past.runs",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM duckdb_tables",
    "SELECT current_setting('memory_limit')",
    "SET memory_limit = '64GB'",
    "PRAGMA database_list",
    "CALL pragma_version()",
    "SET VARIABLE x = 1",
    "RESET memory_limit",
    "USE open",
    "INSTALL httpfs",
    "LOAD httpfs",
    "INSTALL httpfs FROM 'http://127.0.0.1:1'",
    "FORCE CHECKPOINT",
    "VACUUM",
    "ANALYZE",
    "SELECT * FROM read_csv('http://127.0.0.1:1/x.csv')",
    "SELECT * FROM read_csv_auto('/etc/passwd')",
    "SELECT * FROM read_parquet('/tmp/*.parquet')",
    "SELECT * FROM parquet_metadata('/tmp/x.parquet')",
    "SELECT * FROM read_json('/tmp/x.json')",
    "SELECT * FROM read_ndjson_objects('/tmp/x.json')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM '/tmp/x.parquet'",
    "SELECT * FROM runs, LATERAL (SELECT * FROM read_text(run))",
    "SELECT (WITH x AS (SELECT * FROM read_blob('/etc/passwd')) SELECT count(*) FROM x)",
    "SELECT getenv('HOME')",
    "SELECT getvariable('x')",
    "SELECT * FROM duckdb_secrets()",
    "SELECT which_secret('s3://x', 's3')",
    "CREATE SECRET s (TYPE s3)",
    "CREATE MACRO m(a) AS a + 1",
    "CREATE TEMP TABLE mine AS SELECT 1",
    "CREATE OR REPLACE TEMP VIEW runs AS SELECT 1",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "INSERT INTO runs SELECT * FROM runs",
    "UPDATE runs SET run = 'x'",
    "TRUNCATE events",
    "COPY (SELECT 1) TO '/tmp/runs.parquet'",
    "COPY events FROM '/etc/passwd'",
    "IMPORT DATABASE '/tmp/runs'",
    "DETACH tables",
    "BEGIN",
    "SHOW TABLES",
    "DESCRIBE runs",
    "SUMMARIZE runs",
    "EXPLAIN ANALYZE SELECT 1",
    "SELECT * FROM query_table(['runs'])",
    "SELECT * FROM open.facts",
    "SELECT * FROM tables.main.runs",
    "SELECT * FROM duckdb_logs",
    "SELECT * FROM test_all_types()",
    "FROM pragma_database_list()",
    "ATTACH '/tmp/other.db'",
    "COPY runs TO '/tmp/runs.csv'",
    "EXPORT DATABASE '/tmp/runs'",
    "CREATE TABLE mine AS SELECT 1",
    "DELETE FROM runs",
    "DROP VIEW runs",
    "SELECT 1; SELECT 2",
    "SELECT nextval('x')",
    "CHECKPOINT",
    "",
)


@pytest.mark.parametrize("sql", REFUSED)
def test_a_question_reads_the_tables_and_nothing_else(folder: Folder, sql: str) -> None:
    with pytest.raises(QueryError):
        folder.ask(sql)


@pytest.mark.parametrize("sql", REFUSED[:8])
def test_what_gets_past_the_check_is_refused_by_duckdb_itself(folder: Folder, sql: str) -> None:
    db = folder.store.db.cursor()
    with pytest.raises(Exception, match=r"disabled|does not exist|Circular|table function"):
        db.execute(sql).fetchall()
    db.close()


def test_ordinary_sql_is_answered(folder: Folder) -> None:
    sql = """
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5),
        counts AS (SELECT status, count(*) AS c FROM runs GROUP BY status)
        SELECT (SELECT sum(i) FROM n) AS sum, status, c, row_number() OVER (ORDER BY c) AS place
        FROM counts JOIN (SELECT unnest([1]) AS one) ON true ORDER BY c"""
    assert folder.ask(sql).rows()[0]["sum"] == 15


def test_a_runaway_question_is_stopped_and_the_next_one_is_answered(folder: Folder) -> None:
    desk = Desk(folder.store.db, Limits(seconds=0.3))
    with pytest.raises(QueryError, match="longer than") as late:
        desk.ask("SELECT count(*) FROM range(10000000000) a, range(1000000) b")
    assert late.value.status == 408
    desk = Desk(folder.store.db, Limits(seconds=60))
    with pytest.raises(QueryError, match="memory") as large:
        desk.ask("SELECT list(repeat('x', 100000) || range::VARCHAR) FROM range(1000000)")
    assert large.value.status == 413
    assert desk.ask("SELECT count(*) AS n FROM runs").table.num_rows == 1


def test_a_recursion_without_end_is_stopped(folder: Folder) -> None:
    desk = Desk(folder.store.db, Limits(seconds=0.3))
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT count(*) FROM n"
    with pytest.raises(QueryError) as stopped:
        desk.ask(endless)
    assert stopped.value.status in (408, 413)
    growing = """WITH RECURSIVE n(i, t) AS (SELECT 1, 'x' UNION ALL SELECT i + 1, t || t FROM n)
        SELECT max(length(t)) FROM n"""
    with pytest.raises(QueryError) as stopped:
        Desk(folder.store.db, Limits(seconds=60)).ask(growing)
    assert stopped.value.status in (400, 408, 413)
    assert desk.ask("SELECT 1 AS one").table.num_rows == 1


def test_a_question_does_not_fill_the_disk(tmp_path: Path) -> None:
    store = Store(tmp_path / "tables.duckdb", memory="64MB", spill="24MB")
    desk = Desk(store.db, Limits(seconds=100))
    sql = "SELECT i, repeat(i::VARCHAR, 20) AS t FROM range(4000000) r(i) ORDER BY hash(i)"
    with pytest.raises(QueryError, match="memory") as stopped:
        desk.ask(f"SELECT max(t) FROM (SELECT t, row_number() OVER (ORDER BY t) FROM ({sql}))")
    assert stopped.value.status == 413
    assert desk.ask("SELECT 1 AS one").table.num_rows == 1
    store.close()


def test_few_questions_are_answered_at_once(folder: Folder) -> None:
    """The others wait for their turn, and too many are refused at once."""
    desk = Desk(folder.store.db, Limits(seconds=60, at_once=2, waiting=4))
    slow = "SELECT count(*) FROM range(40000000) WHERE range % 7 = 3"
    started, at_work, most = threading.Barrier(20), set[int](), list[int]()
    answer = desk._answer

    def watched(
        db: duckdb.DuckDBPyConnection, sql: str, as_of: datetime | None, begun: float
    ) -> Answer:
        at_work.add(threading.get_ident())
        most.append(len(at_work))
        try:
            return answer(db, sql, as_of, begun)
        finally:
            at_work.discard(threading.get_ident())

    desk._answer = watched  # type: ignore[method-assign] # looks on

    def ask() -> int:
        started.wait()
        try:
            desk.ask(slow)
        except QueryError as error:
            return error.status
        return 200

    with ThreadPoolExecutor(20) as pool:
        statuses = Counter(future.result() for future in [pool.submit(ask) for _ in range(20)])
    assert set(statuses) == {200, 429}
    assert statuses[200] >= 4
    assert max(most) == 2


def test_too_many_rows_are_cut_and_too_many_questions_refused(folder: Folder) -> None:
    desk = Desk(folder.store.db, Limits(rows=7, at_once=1, waiting=0))
    with pytest.raises(QueryError) as refused:
        desk.ask("SELECT 1")
    assert refused.value.status == 429
    answer = Desk(folder.store.db, Limits(rows=7)).ask("SELECT * FROM range(1000)")
    assert (answer.table.num_rows, answer.cut) == (7, True)


def test_every_column_is_documented(folder: Folder) -> None:
    text = PAGE.read_text()
    for table in ALL:
        names = [name for name, _, _ in table.columns]
        assert folder.ask(f"SELECT * FROM {table.name}").arrow.column_names == names
        assert describe(table.name) in text


QUESTIONS = re.findall(r"```sql\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.parametrize("number", range(len(QUESTIONS)))
def test_every_documented_question_is_answered(folder: Folder, number: int) -> None:
    folder.ask(QUESTIONS[number])


def test_as_of_a_time_nothing_later_is_known(folder: Folder) -> None:
    (times,) = folder.ask("SELECT min(started_at) AS first, max(ended_at) AS last FROM runs").rows()
    middle: datetime = times["first"] + (times["last"] - times["first"]) / 2
    then = folder.ask("SELECT * FROM runs", middle.isoformat()).rows()
    now = {row["run"]: row for row in folder.ask("SELECT * FROM runs").rows()}
    assert {row["run"] for row in then} == {r for r in now if now[r]["started_at"] <= middle}
    for row in then:
        ended = now[row["run"]]["ended_at"] <= middle
        assert row == now[row["run"]] if ended else row["status"] == "running"
    for table in ALL:
        folder.ask(f"SELECT * FROM {table.name}", middle.isoformat())


def test_the_report_says_what_there_is(folder: Folder) -> None:
    parts, over_time = gather(folder, 24)
    assert [part.title for part in parts if part.result.arrow.num_rows][:2] == [
        "Runs by status",
        "Failures",
    ]
    assert lines_of(over_time)[0].startswith("started")
    text = page(parts, over_time)
    assert "<script src" not in text
    assert text.count("<table>") >= 3
