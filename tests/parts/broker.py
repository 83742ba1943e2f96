"""A real Kafka broker for tests, one for the whole run, shared by all its processes.

Looked for in this order: the address in STEPFOLD_TEST_KAFKA; Docker, through testcontainers;
``compose/kafka-local``, which needs Java 17 and Maven. Without any, tests are skipped, or fail
where a broker is required: with CI or STEPFOLD_TEST_KAFKA_REQUIRED set.
"""

import contextlib
import fcntl
import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "compose" / "kafka-local"
IMAGE = "apache/kafka:4.1.0"
USER, PASSWORD = "alice", "correct-horse"
Stop = Callable[[], None]


@dataclass(frozen=True)
class Broker:
    """Where a broker is. The last four are known only of one that the tests have started."""

    servers: str
    sasl: str = ""
    tls: str = ""
    authorities: str = ""
    folder: str = ""


class NoBrokerError(Exception):
    """There is no such broker; the message says why."""


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Generator[Broker]:
    """Give a real broker, shared by all processes of this test run."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    state = folder / "kafka.json"
    stop: Stop | None = None
    with locked(state):
        if not state.exists():
            broker, stop = start(folder)
            state.write_text(json.dumps({"broker": asdict(broker), "users": []}))
        known: dict[str, Any] = json.loads(state.read_text())
        known["users"].append(os.getpid())
        state.write_text(json.dumps(known))
    try:
        yield Broker(**known["broker"])
    finally:
        while not left(state, stop):  # who started it stops it, after everybody else
            time.sleep(0.1)


@contextlib.contextmanager
def locked(state: Path) -> Generator[None]:
    with state.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def left(state: Path, stop: Stop | None) -> bool:
    """Use the broker no more; say whether that is all: who started it waits for who still does.

    A process that has its first test with Kafka only then finds none, and starts another.
    """
    with locked(state):
        known: dict[str, Any] = json.loads(state.read_text())
        known["users"] = [p for p in known["users"] if p != os.getpid() and alive(p)]
        state.write_text(json.dumps(known))
        if stop is None:
            return True
        if known["users"]:
            return False
        stop()
        state.unlink()
        return True


def pause(pid: int) -> None:
    """Stop a process with SIGSTOP; return when each of its threads stands still."""
    os.kill(pid, signal.SIGSTOP)
    until_s = time.monotonic() + 30
    while any(state_of(stat) not in "Tt" for stat in Path(f"/proc/{pid}/task").glob("*/stat")):
        assert time.monotonic() < until_s, f"process {pid} does not stop"
        time.sleep(0.01)


def state_of(stat: Path) -> str:
    """Return a thread's state as the kernel says it: behind its name, which ends with a bracket."""
    return stat.read_text().rpartition(")")[2].split()[0]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def start(folder: Path) -> tuple[Broker, Stop]:
    """Find or start a broker; skip the test if there is no way."""
    if given := os.environ.get("STEPFOLD_TEST_KAFKA"):
        return Broker(given), lambda: None
    reasons = ["STEPFOLD_TEST_KAFKA is not set"]
    for way in (in_docker, on_this_machine):
        try:
            return way(folder)
        except NoBrokerError as error:
            reasons.append(str(error))
    reason = "no Kafka broker: " + "; ".join(reasons)
    if os.environ.get("CI") or os.environ.get("STEPFOLD_TEST_KAFKA_REQUIRED"):
        pytest.fail(reason)
    pytest.skip(reason)


def in_docker(folder: Path) -> tuple[Broker, Stop]:
    try:
        done = subprocess.run(["docker", "info"], capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoBrokerError(f"no Docker ({error})") from error
    if done.returncode:
        raise NoBrokerError("Docker does not answer")
    try:
        module = importlib.import_module("testcontainers.kafka")
    except ImportError as error:
        raise NoBrokerError("testcontainers is not installed") from error
    container = module.KafkaContainer(IMAGE).with_kraft()
    container.with_env("KAFKA_AUTO_CREATE_TOPICS_ENABLE", "false")
    try:
        container.start()
    except Exception as error:
        raise NoBrokerError(f"Docker cannot run {IMAGE} ({error!r})") from error
    return Broker(container.get_bootstrap_server()), container.stop


def on_this_machine(folder: Path, session_ms: int = 30_000) -> tuple[Broker, Stop]:
    """Start a broker with listeners for SASL and for TLS, too.

    It may be silent for so long until it counts as dead: nobody could take its place, and on a busy
    machine it is slow at times.
    """
    for program in ("java", "mvn"):
        if shutil.which(program) is None:
            raise NoBrokerError(f"compose/kafka-local needs {program}")
    plain, sasl, tls = free_port(), free_port(), free_port()
    store, authorities = certificates(folder)
    module = "org.apache.kafka.common.security"
    users = f'user_{USER}="{PASSWORD}"'
    listener = "listener.name.sasl_plaintext"
    settings = {
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
        f"{listener}.plain.sasl.jaas.config": f"{module}.plain.PlainLoginModule required {users};",
        "listener.name.ssl.ssl.keystore.type": "PEM",
        "listener.name.ssl.ssl.keystore.location": str(store),
        "broker.session.timeout.ms": str(session_ms),
    }
    for mechanism in ("scram-sha-256", "scram-sha-512"):
        login = f"{module}.scram.ScramLoginModule required;"
        settings[f"{listener}.{mechanism}.sasl.jaas.config"] = login
    # It takes any token that names somebody, signed or not.
    login = f"{module}.oauthbearer.OAuthBearerLoginModule required"
    claim = 'unsecuredLoginStringClaim_sub="broker";'
    settings[f"{listener}.oauthbearer.sasl.jaas.config"] = f"{login} {claim}"
    home = folder / "kafka"
    command = [sys.executable, str(SCRIPT), "--dir", str(home)]
    options = [f"--port={plain}", f"--listener=SASL_PLAINTEXT={sasl}", f"--listener=SSL={tls}"]
    options += [f"--scram={USER}={PASSWORD}"]
    options += [f"--set={name}={value}" for name, value in settings.items()]
    done = subprocess.run(
        [*command, "start", *options], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise NoBrokerError(f"compose/kafka-local failed: {done.stderr.strip()[-2000:]}")

    def stop() -> None:
        subprocess.run([*command, "stop", "--wipe"], check=True)

    servers = done.stdout.strip()
    local = f"127.0.0.1:{sasl}", f"127.0.0.1:{tls}"
    return Broker(servers, *local, str(authorities), str(home)), stop


def free_port() -> int:
    """Return a port below those that the system gives out by itself.

    A broker's controller listens a hundred above, so that must be free, too. It takes a while until
    a broker listens, and others look meanwhile: processes begin far enough from one another.
    """
    for port in range(20_000 + os.getpid() * 137 % 11_500, 32_400):
        if port not in _given and is_free(port) and is_free(port + 100):
            _given.update({port, port + 100})
            return port
    raise NoBrokerError("no port is free")


_given: set[int] = set()


def is_free(port: int) -> bool:
    with socket.socket() as tried:
        try:
            tried.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def certificates(folder: Path) -> tuple[Path, Path]:
    """Make an authority for this run; return a broker's key and certificate, and the authority."""
    authority = trustme.CA()
    made = authority.issue_cert("127.0.0.1", "localhost")
    key = serialization.load_pem_private_key(made.private_key_pem.bytes(), None)
    text = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,  # the only form that Kafka reads
        serialization.NoEncryption(),
    )
    store, authorities = folder / "kafka-broker.pem", folder / "kafka-authority.pem"
    store.write_bytes(text + b"".join(part.bytes() for part in made.cert_chain_pems))
    authority.cert_pem.write_to_path(str(authorities))
    return store, authorities
