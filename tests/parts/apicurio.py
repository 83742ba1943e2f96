"""A real schema registry for tests: Apicurio's, which speaks Confluent's REST API, in memory.

The address in STEPFOLD_TEST_REGISTRY, or one that is started here: from Maven Central, with Java.
"""

import os
import shutil
import signal
import socket
import subprocess
import tarfile
import time
import urllib.request
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.parts.broker import ROOT, locked

VERSION = "2.6.13.Final"
HOME = Path(os.environ.get("STEPFOLD_REGISTRY_JARS", ROOT / ".kafka" / "registry"))
API = "/apis/ccompat/v7"
FETCH_S, READY_S = 300, 90


@pytest.fixture(scope="session")
def real_registry(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """Give the address of a real registry."""
    if given := os.environ.get("STEPFOLD_TEST_REGISTRY"):
        yield given
        return
    missing = [program for program in ("java", "mvn") if shutil.which(program) is None]
    if missing:
        pytest.skip(f"no schema registry: {' and '.join(missing)} are not installed; or set"
                    " STEPFOLD_TEST_REGISTRY to the address of one")  # fmt: skip
    runner = fetched()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    log = tmp_path_factory.mktemp("registry") / "registry.log"
    settings = [f"-Dquarkus.http.port={port}", "-Dquarkus.http.host=127.0.0.1"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["java", "-Xmx256m", *settings, "-jar", str(runner)], stdout=out, stderr=out
        )
    try:
        yield ready(f"http://127.0.0.1:{port}{API}", process, log)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def fetched() -> Path:
    """Return the registry's jar, downloaded first if need be."""
    HOME.parent.mkdir(parents=True, exist_ok=True)
    with locked(HOME):
        found = sorted(HOME.glob("*-runner.jar"))
        if found:
            return found[0]
        artifact = f"io.apicurio:apicurio-registry-app:{VERSION}:tar.gz:all"
        fresh = HOME.with_name(f"{HOME.name}.{os.getpid()}")
        command = ["mvn", "-q", "-B", "dependency:copy", f"-Dartifact={artifact}"]
        done = subprocess.run(
            [*command, f"-DoutputDirectory={fresh}"],
            capture_output=True,
            text=True,
            timeout=FETCH_S,
            check=False,
        )
        archives = sorted(fresh.glob("*.tar.gz"))
        if done.returncode or not archives:
            shutil.rmtree(fresh, ignore_errors=True)
            pytest.skip(f"no schema registry: Maven has no {artifact}: {done.stdout[-300:]}")
        with tarfile.open(archives[0]) as archive:
            archive.extractall(fresh, filter="data")
        archives[0].unlink()
        fresh.rename(HOME)
    return next(iter(sorted(HOME.glob("*-runner.jar"))))


def ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> str:
    """Wait until a registry answers; return its address."""
    until_s = time.monotonic() + READY_S
    while True:
        try:
            with urllib.request.urlopen(f"{url}/schemas/types", timeout=5):
                return url
        except OSError:
            said = log.read_text(errors="replace")[-2_000:]
            assert process.poll() is None, f"the registry has ended: {said}"
            assert time.monotonic() < until_s, f"the registry does not answer: {said}"
            time.sleep(0.2)
