"""The compose file holds together: it cannot be started here, but what it says can be looked at."""

import importlib
import shlex
from pathlib import Path
from typing import Any

import typer

from stepfold_engine.cli.program import program

FILE = Path(__file__).resolve().parent.parent / "compose" / "docker-compose.yml"
yaml: Any = importlib.import_module("yaml")  # has no types
SERVICES: dict[str, Any] = yaml.safe_load(FILE.read_text())["services"]
BROKERS = {n: s["environment"] for n, s in SERVICES.items() if "KAFKA_NODE_ID" in s["environment"]}


def test_each_broker_is_a_voter_and_says_where_it_is() -> None:
    assert len(BROKERS) == 3
    voters = {f"{e['KAFKA_NODE_ID']}@{name}:9093" for name, e in BROKERS.items()}
    for name, environment in BROKERS.items():
        assert set(environment["KAFKA_CONTROLLER_QUORUM_VOTERS"].split(",")) == voters
        offered = dict(o.split("://") for o in environment["KAFKA_ADVERTISED_LISTENERS"].split(","))
        listened = dict(o.split("://") for o in environment["KAFKA_LISTENERS"].split(","))
        named = {
            m.split(":")[0] for m in environment["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(",")
        }
        assert listened.keys() == named == offered.keys() | {"CONTROLLER"}
        assert offered["INTERNAL"] == name + listened["INTERNAL"]
        (port,) = SERVICES[name]["ports"]
        assert port == offered["HOST"] + listened["HOST"]


def test_all_ports_are_loopbacks_and_no_two_are_the_same() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    outside = [port.rsplit(":", 1)[0] for port in ports]
    assert all(address.startswith("127.0.0.1:") for address in outside)
    assert len(set(outside)) == len(outside)


def test_what_a_service_waits_for_is_there() -> None:
    for service in SERVICES.values():
        assert set(service.get("depends_on", {})) <= SERVICES.keys()


def test_its_commands_are_ours_and_name_its_brokers() -> None:
    commands = [shlex.split(s["command"]) for s in SERVICES.values() if "command" in s]
    assert len(commands) == 3
    for first, *words in commands:
        assert first == "stepfold"
        command = typer.main.get_command(program)
        while (subcommands := getattr(command, "commands", None)) is not None:
            command = subcommands[words.pop(0)]
        known = {option for p in command.params for option in p.opts}
        assert {word for word in words if word.startswith("--")} <= known
        servers = words[words.index("--kafka") + 1].split(",")
        assert set(servers) <= {f"{name}:19092" for name in BROKERS}
