"""Acting on runs by the command line, with a real engine: rerun one and many, who asked and why."""

import json
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.e2e.test_cli import DEADLINE_S, MAIN, Dev, refused, until

pytestmark = pytest.mark.process

APP = """
from pathlib import Path

import stepfold

app = stepfold.App("shop")
HERE = Path(__file__).parent


def leave(trace: str) -> str:
    with (HERE / "traces").open("a") as file:
        file.write(trace + "\\n")
    return trace


def send(order: int) -> str:
    if not (HERE / "mended").exists():
        raise ValueError("the carrier does not answer")
    return leave(f"send {order}")


@app.function("fulfil", on="shop/order.paid", retries=0)
async def fulfil(ctx: stepfold.Context) -> str:
    order = ctx.event.data["order"]
    await ctx.step.run("charge", leave, f"charge {order}")
    return await ctx.step.run("send", send, order)
"""


@pytest.fixture
def dev(tmp_path: Path) -> Generator[Dev]:
    (tmp_path / "app.py").write_text(APP)
    found = Dev(tmp_path)
    found.start()
    yield found
    if found.process is not None and found.process.poll() is None:
        found.process.kill()
        found.process.wait(DEADLINE_S)


def failed(dev: Dev, orders: int) -> list[str]:
    for order in range(orders):
        dev.ok("send", "shop/order.paid", json.dumps({"order": order}))

    def look() -> list[str]:
        rows = dev.rows("runs", "--status", "failed")
        return [str(row["id"]) for row in rows] if len(rows) == orders else []

    return until(look, f"{orders} failed runs")


def in_tables(dev: Dev, orders: int) -> None:
    """Wait until the tables, which are made beside the engine, hold the failed runs."""
    count = "SELECT count(*) AS n FROM runs WHERE status = 'failed'"

    def look() -> bool:
        said = dev.cli("sql", count, "--format", "json")
        return said.exit_code == 0 and json.loads(said.output) == {"n": orders}

    until(look, f"{orders} failed runs in the tables")


def traces(dev: Dev) -> list[str]:
    return sorted((dev.folder / "traces").read_text().split("\n")[:-1])


def test_a_failed_run_is_run_again_from_where_it_failed(dev: Dev) -> None:
    (run,) = failed(dev, 1)
    (dev.folder / "mended").touch()
    said = dev.ok("rerun", run[-8:], "--from-failure", "--why", "it answers again", "--by", "ann")
    new, _, of = said.partition(" is a rerun of ")
    assert of == run
    until(lambda: dev.rows("run", new)[0]["status"] == "completed")
    assert traces(dev) == ["charge 0", "send 0"]
    shown = dev.ok("run", new)
    assert f"a rerun of {run} from step send" in shown
    assert "by ann: it answers again" in shown
    asked = f"SELECT rerun_of, rerun_from, asked_by, why FROM runs WHERE run = '{new}'"
    until(
        lambda: (
            f"{run},send,ann,it answers again" in dev.cli("sql", asked, "--format", "csv").output
        )
    )
    again = dev.ok("rerun", run, "--from-failure")
    assert again.startswith(new)
    assert "asked for before; --again NAME makes another" in again
    other = dev.ok("rerun", run, "--input", '{"order": 9}', "--again", "once more")
    until(lambda: dev.rows("run", other[:26])[0]["status"] == "completed")
    assert traces(dev) == ["charge 0", "charge 9", "send 0", "send 9"]
    # It lives on its own journal: also over a kill.
    dev.stop(signal.SIGKILL)
    dev.start()
    assert dev.rows("run", new)[0]["outcome"] == {"data": "send 0"}


def test_what_cannot_be_rerun_is_refused_in_words(dev: Dev) -> None:
    (run,) = failed(dev, 1)
    assert "its steps are: charge, send" in dev.cli("rerun", run, "--from", "pack").output
    assert "not JSON" in dev.cli("rerun", run, "--input", "{").output
    assert "a run's id, or --where" in dev.cli("rerun").output
    both = dev.cli("rerun", run, "--from", "send", "--from-failure")
    assert both.exit_code == 2
    listed = dev.cli("rerun", run, "--input", "[1]")
    assert "takes the place of the event's data" in listed.output
    unknown = dev.cli("rerun", "0" * 26)
    assert (unknown.exit_code, "no run" in unknown.output) == (1, True)


def test_many_are_rerun_once_though_the_command_was_killed(dev: Dev) -> None:
    runs = failed(dev, 6)
    (dev.folder / "mended").touch()
    state = dev.folder / "state.jsonl"
    asked = ["rerun", "--where", "status = 'failed'", "--from-failure", "--state", str(state)]
    in_tables(dev, 6)
    shown = dev.ok(*asked, "--dry-run")
    assert "6 runs are to be rerun" in shown
    assert not state.exists()
    assert dev.cli(*asked, stdin="n\n").exit_code == 1
    # A kill behind the fourth: what was chosen is noted, and the last one done is not.
    lines = [json.dumps({"runs": sorted(runs)})]
    for run in sorted(runs)[:4]:
        new = dev.ok("rerun", run, "--from-failure").split()[0]
        lines.append(json.dumps({"run": run, "rerun": new}))
    state.write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:20])
    said = dev.ok(*asked, "--yes", "--rate", "1000")
    assert "3 of 6 are done" in said
    assert "3 were rerun, 0 were refused" in said
    assert not state.exists()

    def sent() -> bool:
        return len([t for t in traces(dev) if t.startswith("send")]) == 6

    until(sent, "six orders sent")
    assert len(dev.rows("runs")) == 12
    assert traces(dev) == sorted(
        [f"charge {n}" for n in range(6)] + [f"send {n}" for n in range(6)]
    )


def test_a_bulk_rerun_that_is_killed_goes_on_with_the_same_command(dev: Dev) -> None:
    runs = failed(dev, 20)
    (dev.folder / "mended").touch()
    in_tables(dev, 20)
    asked = ["rerun", "--where", "status = 'failed'", "--from-failure", "--yes", "--url", dev.url]
    whole = [sys.executable, "-c", MAIN, *asked]
    process = subprocess.Popen(
        [*whole, "--rate", "5"], cwd=dev.folder, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    while "→" not in process.stdout.readline():
        assert process.poll() is None
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    done = subprocess.run(
        [*whole, "--rate", "1000"], cwd=dev.folder, capture_output=True, text=True, check=True
    )
    assert "of 20 are done" in done.stdout
    until(lambda: len([t for t in traces(dev) if t.startswith("send")]) == 20, "all orders sent")
    assert len(dev.rows("runs", "--limit", "100")) == 2 * len(runs) == 40
    assert traces(dev) == sorted(
        [f"charge {n}" for n in range(20)] + [f"send {n}" for n in range(20)]
    )


def test_a_condition_that_is_no_sql_is_refused(dev: Dev) -> None:
    in_tables(dev, 0)
    code, said = refused(dev.folder, "rerun", "--where", "nonsense =", "--url", dev.url)
    assert code != 0
    assert "syntax error" in said.lower()
