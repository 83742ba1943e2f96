"""Pinned functions and real processes: runs wait for the code they began with, and are shown so."""

import signal
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.e2e.test_cli import DEADLINE_S, Dev, until

pytestmark = pytest.mark.process

APP = """
import stepfold

app = stepfold.App("shop")


@app.function("fulfil", on="shop/order.paid", version="VERSION", pin=True)
async def fulfil(ctx: stepfold.Context) -> str:
    await ctx.step.wait_for_event("packed", event="shop/packed", timeout="1h")
    return await ctx.step.run("say", str, "VERSION")
"""


def deploy(dev: Dev, version: str, *options: str) -> None:
    if dev.process is not None:
        dev.stop(signal.SIGKILL)
    (dev.folder / "app.py").write_text(APP.replace("VERSION", version))
    dev.options = ["--no-reload", *options]
    dev.start()


@pytest.fixture
def dev(tmp_path: Path) -> Generator[Dev]:
    found = Dev(tmp_path)
    yield found
    if found.process is not None and found.process.poll() is None:
        found.process.kill()
        found.process.wait(DEADLINE_S)


def result(dev: Dev, run: str) -> object:
    until(lambda: dev.rows("run", run)[0]["status"] == "completed", "the run's end")
    return dev.rows("run", run)[0]["outcome"]


def test_a_run_waits_for_its_version_is_shown_so_and_goes_on_with_it(dev: Dev) -> None:
    deploy(dev, "1")
    dev.ok("send", "shop/order.paid", "{}")
    old = dev.run_in("waiting", "shop-fulfil")
    deploy(dev, "2")
    dev.ok("send", "shop/packed", "{}")
    assert dev.run_in("waiting-for-code", "shop-fulfil") == old
    assert "version 1" in dev.ok("runs", "--status", "waiting-for-code")
    assert "version 1" in dev.ok("run", old)
    dev.ok("send", "shop/order.paid", "{}")
    new = dev.run_in("waiting", "shop-fulfil")
    dev.ok("send", "shop/packed", "{}")
    assert result(dev, new) == {"data": "2"}
    assert dev.rows("run", old)[0]["status"] == "waiting-for-code"
    deploy(dev, "1")
    assert result(dev, old) == {"data": "1"}


def test_a_process_that_serves_the_older_version_goes_on_with_its_runs(dev: Dev) -> None:
    deploy(dev, "1")
    dev.ok("send", "shop/order.paid", "{}")
    old = dev.run_in("waiting", "shop-fulfil")
    deploy(dev, "2", "--serves", "1")
    dev.ok("send", "shop/packed", "{}")
    assert result(dev, old) == {"data": "2"}
