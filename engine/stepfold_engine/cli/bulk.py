"""``stepfold rerun --where``: many reruns, paced, that go on after the command was killed.

The runs are chosen once, and noted in a file before the first is rerun; each that is done is noted
behind it. One that was rerun and not noted is asked for again: that is the same rerun.
"""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import typer

from stepfold_engine.cli.asking import OURS
from stepfold_engine.cli.failures import FAILED, USAGE, fail
from stepfold_engine.cli.remote import Body, RefusedError, Remote, asked

PAGE_ROWS = 10_000
SHOWN_MAX = 10


@dataclass(frozen=True, slots=True)
class Bulk:
    """What is to be done: ``body`` is each request's, ``rate`` how many a second."""

    where: str
    body: Body
    rate: float
    state: Path | None
    url: str

    @property
    def path(self) -> Path:
        """Where it is noted how far it came."""
        if self.state is not None:
            return self.state
        asked_for = {k: v for k, v in self.body.items() if k not in ("why", "asked_by")}
        whole = json.dumps([self.where, asked_for, self.url], sort_keys=True)
        return Path(f"stepfold-rerun-{hashlib.sha256(whole.encode()).hexdigest()[:8]}.jsonl")


def rerun_all(job: Bulk, *, dry_run: bool, yes: bool) -> None:
    """Rerun all runs of which the condition is true, or go on with that."""
    if job.path.exists():
        runs, done = _noted(job.path)
        typer.echo(f"going on with {job.path}: {len(done):,} of {len(runs):,} are done")
    else:
        runs, done = _chosen(job), set[str]()
    left = [run for run in runs if run not in done]
    typer.echo(f"{len(left):,} runs are to be rerun")
    if dry_run or not left:
        for run in left[:SHOWN_MAX]:
            typer.echo(f"  {run}")
        if len(left) > SHOWN_MAX:
            typer.echo(f"  and {len(left) - SHOWN_MAX:,} more")
        return
    if not yes and not typer.confirm(f"Rerun {len(left):,} runs?"):
        raise typer.Exit(1)
    if not job.path.exists():
        _write(job.path, [json.dumps({"runs": runs})])
    refused = _do(job, left)
    typer.echo(f"{len(left) - refused:,} were rerun, {refused:,} were refused")
    job.path.unlink()
    if refused:
        raise typer.Exit(FAILED)


def _do(job: Bulk, left: Sequence[str]) -> int:
    """Rerun one after the other, at the rate; return how many were refused."""
    remote, refused, begun_s = Remote(job.url), 0, time.monotonic()
    for index, run in enumerate(left):
        wait_s = begun_s + index / job.rate - time.monotonic()
        if wait_s > 0:
            time.sleep(wait_s)
        try:
            found = remote.data("POST", f"{OURS}/runs/{run}/rerun", body=job.body)
        except RefusedError as error:
            if error.status >= 500:
                fail(f"{run}: {error}; the same command goes on from here", FAILED)
            refused += 1
            typer.echo(f"{run} is not rerun: {error}", err=True)
            _write(job.path, [json.dumps({"run": run, "refused": str(error)})])
            continue
        new = cast("Body", found)["run_id"]
        typer.echo(f"{run} → {new}")
        _write(job.path, [json.dumps({"run": run, "rerun": new})])
    return refused


def _chosen(job: Bulk) -> list[str]:
    runs: list[str] = []
    while True:
        after = runs[-1] if runs else ""
        sql = (
            f"SELECT run FROM runs WHERE ({job.where}\n) AND run > '{after}'"  # noqa: S608 - the user's own question, which can only read
            f" ORDER BY run LIMIT {PAGE_ROWS}"
        )
        body = {"sql": sql}

        def ask(remote: Remote, body: Body = body) -> object:
            return remote.ask("POST", "/v1/sql", body=body)

        answer = asked(ask, job.url)
        rows = cast("dict[str, list[list[str]]]", answer)["data"]
        runs += [row[0] for row in rows]
        if len(rows) < PAGE_ROWS:
            return runs


def _noted(path: Path) -> tuple[list[str], set[str]]:
    """Read which runs were chosen and which are done; a line that was cut off is not done."""
    lines: list[Body] = []
    for line in path.read_text().splitlines():
        try:
            lines.append(cast("Body", json.loads(line)))
        except ValueError:
            continue
    if not lines or "runs" not in lines[0]:
        fail(f"{path} is not what this command writes; remove it, or give --state FILE", USAGE)
    return cast("list[str]", lines[0]["runs"]), {str(line["run"]) for line in lines[1:]}


def _write(path: Path, lines: Sequence[str]) -> None:
    with path.open("a") as file:
        file.write("".join(f"{line}\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())
