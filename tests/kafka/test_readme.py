"""The README's commands for Kafka do what it says, with this run's broker and ports."""

import asyncio
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.parts.broker import Broker
from tests.parts.cluster import cluster, run

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]
README = Path(__file__).resolve().parents[2] / "README.md"


def documented(servers: str, name: str) -> list[list[str]]:
    """Return the README's ``stepfold`` commands for Kafka, with our broker, topics and ports."""
    (section,) = re.findall(r"^## On Kafka$(.*?)^## ", README.read_text(), re.DOTALL | re.MULTILINE)
    (block,) = re.findall(r"```console\n(.*?)```", section, re.DOTALL)
    lines = [line.removeprefix("$ ") for line in block.splitlines()]
    assert lines[0] == "compose/kafka-local start", "this run's broker stands for it"
    commands = [shlex.split(line, comments=True) for line in lines[1:]]
    ours = ["--namespace", name, "--events-prefix", name]
    for command in commands:
        assert command[0] == "stepfold"
        command[:1] = [sys.executable, "-m", "stepfold.command"]
        if "--kafka" in command:
            command[command.index("--kafka") + 1] = servers
            command.extend(ours)  # of an option that is given twice, the last counts
        if "--port" in command:
            command[command.index("--port") + 1] = "0"
    return commands


def test_a_function_runs_in_two_processes(kafka: Broker, tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[:1]
    (tmp_path / "app.py").write_text(code)

    async def main() -> None:
        async with cluster(kafka, tmp_path, "shop") as c:
            create, first, second, send = documented(kafka.servers, c.names.namespace)
            made = await asyncio.create_subprocess_exec(*create, stdout=subprocess.PIPE)
            said, _ = await made.communicate()
            assert made.returncode == 0
            assert b"was there" in said
            urls = [await c.url(await c.spawn(command, tmp_path)) for command in (first, second)]
            for url in urls:
                sending = await asyncio.create_subprocess_exec(*send, "--url", url)
                assert await sending.wait() == 0
            await c.until(lambda: len(c.outcomes) == 4)  # of each run, both first steps

    run(main)
