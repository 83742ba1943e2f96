"""Elsewhere: replays in other processes, each with another hash seed and in another time zone.

The order of a set of strings differs from process to process and from nothing else, so another
process is the only way to see code that depends on it. Functions are found there by module and
name; recordings travel as JSON.
"""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any, TypeGuard

from stepfold.app import App
from stepfold.function import Function
from stepfold.port import Fact
from stepfold.testing.replaying import Recording, Seen, replays
from stepfold_schemas import codec

PROCESS_S_MAX = 120
"""How long another process may take, on the real clock."""

TIME_ZONES = ("KIT-14", "UTC", "BAK+12", "IST-5:30", "NFT+3:30")
"""In turn, one for each process; written so that no database of time zones is needed."""

_MAIN = "from stepfold.testing.elsewhere import main; main()"


class NotImportableError(Exception):
    """A function cannot be imported in another process; the message says why."""


def check_importable(function: Function[Any]) -> None:
    """Refuse a function that no other process can import.

    Raises:
        NotImportableError: it is defined in another function, or its code lies in no file.
    """
    call = function.call
    name = getattr(call, "__qualname__", "")
    if "<locals>" in name or not name:
        outer = name.partition(".<locals>")[0]
        raise NotImportableError(f"{function.id} is defined inside {outer or 'another object'}()")
    if _file_of(function) is None and function.__module__ not in sys.modules:
        raise NotImportableError(f"{function.id} is in no module: {function.__module__!r}")


def replay_elsewhere(
    functions: Mapping[str, Function[Any]], recordings: Sequence[Recording], seeds: int
) -> Iterator[tuple[str, list[list[Seen]]]]:
    """Yield what replays showed in each of several processes, and what its conditions were.

    Raises:
        NotImportableError: a function cannot be imported there.
        RuntimeError: a process failed otherwise.
    """
    task = {
        "functions": [_address(functions[r.function]) for r in recordings],
        "recordings": [_written(recording) for recording in recordings],
    }
    with tempfile.TemporaryDirectory(prefix="stepfold-testing-") as name:
        folder = Path(name)
        (folder / "task.json").write_text(json.dumps(task))
        with ExitStack() as stack:
            started = [stack.enter_context(_started(folder, n + 1)) for n in range(seeds)]
            for number, process in enumerate(started, 1):
                seen = _seen(process, folder / f"{number}.json")
                yield f"PYTHONHASHSEED={number}, TZ={_zone(number)}", seen


def _seen(process: "subprocess.Popen[str]", result: Path) -> list[list[Seen]]:
    _, errors = process.communicate(timeout=PROCESS_S_MAX)
    if process.returncode:
        raise RuntimeError(f"the process that replays with another hash seed failed:\n{errors}")
    found = json.loads(result.read_text())
    if "missing" in found:
        raise NotImportableError(found["missing"])
    return [[Seen(**one) for one in of_run] for of_run in found["seen"]]


@contextmanager
def _started(folder: Path, number: int) -> "Generator[subprocess.Popen[str]]":
    with _start(folder, number) as process:
        try:
            yield process
        finally:
            process.kill()


def _start(folder: Path, seed: int) -> "subprocess.Popen[str]":
    paths = os.pathsep.join(path for path in sys.path if path)
    changed = {"PYTHONHASHSEED": str(seed), "TZ": _zone(seed), "PYTHONPATH": paths}
    command = [sys.executable, "-c", _MAIN, str(folder / "task.json"), str(folder / f"{seed}.json")]
    return subprocess.Popen(  # noqa: S603 - our own code
        command,
        env={**os.environ, **changed},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _zone(seed: int) -> str:
    return TIME_ZONES[(seed - 1) % len(TIME_ZONES)]


def _address(function: Function[Any]) -> dict[str, str]:
    file = _file_of(function)
    name = str(getattr(function.call, "__qualname__", ""))
    return {"id": function.id, "module": function.__module__, "name": name, "file": file or ""}


def _file_of(function: Function[Any]) -> str | None:
    module = sys.modules.get(function.__module__)
    return getattr(module, "__file__", None)


def _written(recording: Recording) -> dict[str, Any]:
    return {
        "function": recording.function,
        "run": recording.run.hex(),
        "end": recording.end,
        "facts": [[f.seq, f.place, f.at_ms, codec.encode(f.entry).hex()] for f in recording.facts],
    }


# In the other process.


def main() -> None:
    """Replay what the first argument's file says; write what was seen to the second's."""
    task, result = (Path(name) for name in sys.argv[1:3])
    asked = json.loads(task.read_text())
    found: dict[str, Any]
    try:
        functions = {a["id"]: _found(a) for a in asked["functions"]}
    except NotImportableError as error:
        found = {"missing": str(error)}
    else:
        recordings = [_read(one) for one in asked["recordings"]]
        with muted(functions.values()):
            seen = [[asdict(one) for one in replays(functions, r)] for r in recordings]
        found = {"seen": seen}
    result.write_text(json.dumps(found))


def _read(written: Mapping[str, Any]) -> Recording:
    facts = [
        Fact(seq, place, at_ms, codec.decode_entry(bytes.fromhex(entry)))
        for seq, place, at_ms, entry in written["facts"]
    ]
    run = bytes.fromhex(written["run"])
    return Recording(written["function"], run, facts, written["end"])


def _found(address: Mapping[str, str]) -> Function[Any]:
    """Return a function by its address."""
    module = _imported(address)
    try:
        named: object = reduce(getattr, address["name"].split("."), module)
    except AttributeError:
        named = None
    candidates = [named, *vars(module).values()]
    for candidate in candidates:
        if isinstance(candidate, App) and address["id"] in candidate.functions:
            return candidate.functions[address["id"]]
        if _is(candidate, address["id"]):
            return candidate
    name = address["module"]
    raise NotImportableError(f"importing {name} again does not make the function {address['id']}")


def _is(candidate: object, wanted: str) -> TypeGuard[Function[Any]]:
    return isinstance(candidate, Function) and candidate.id == wanted


def _imported(address: Mapping[str, str]) -> ModuleType:
    name, file = address["module"], address["file"]
    if name != "__main__":
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            # pytest gives test files names of its own; the file is what counts.
            pass
        except Exception as error:
            raise NotImportableError(f"{name} cannot be imported: {error!r}") from error
    spec = importlib.util.spec_from_file_location("__mp_main__", file) if file else None
    if spec is None or spec.loader is None:
        raise NotImportableError(f"there is no module {name}, and no file of it")
    module = sys.modules["__mp_main__"] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise NotImportableError(f"{file} cannot be imported: {error!r}") from error
    return module


class _Muted:
    """Takes events and does nothing with them (``stepfold.app.Publisher``)."""

    async def publish(self, events: Sequence[Any]) -> list[str]:
        """Return an id for each."""
        return ["" for _ in events]


@contextmanager
def muted(functions: Any) -> Generator[None]:
    """Let the functions' apps send nothing while the block runs."""
    apps = {id(f.app): f.app for f in functions if isinstance(f.app, App)}
    before = {key: app.engine for key, app in apps.items()}
    try:
        for app in apps.values():
            app.engine = _Muted()
        yield
    finally:
        for key, app in apps.items():
            app.engine = before[key]
