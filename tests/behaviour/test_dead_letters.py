"""Dead letters: kept as they were, and sent again without starting anything twice."""

from pathlib import Path

import pytest

import stepfold
from stepfold_engine.deadletters import letter_by_id, newest_letters, redrive
from stepfold_engine.errors import RequestRefusedError
from stepfold_engine.log.base import EVENTS, INBOX, NewRecord
from tests.behaviour.conftest import On
from tests.behaviour.scenario import Scenario, scenario

BROKEN = NewRecord(b'{"name": "t/go", "data": {"n": 1}', b"customer-7", (("trace", b"\xff"),))
MENDED = BROKEN.value + b"}"


@pytest.fixture
def app() -> stepfold.App:
    app = stepfold.App("t")

    @app.function("f", on="t/go")
    async def f(ctx: stepfold.Context) -> int:
        return int(ctx.event.data["n"])

    return app


def letters_of(s: Scenario) -> list[str]:
    return [letter.id for letter in s.do(newest_letters(s.log, 10))]


@pytest.mark.parametrize("partitions", [1, 4])
def test_a_mended_letter_starts_its_run_once_however_often_it_is_sent(
    app: stepfold.App, partitions: int, tmp_path: Path, stored: On
) -> None:
    with scenario(stored(partitions), app, tmp_path) as s:
        s.do(s.log.append(EVENTS, 0, [BROKEN]))
        s.advance(1)
        (name,) = letters_of(s)
        letter = s.do(letter_by_id(s.log, name))
        assert (letter.value, letter.key, letter.headers) == (
            BROKEN.value,
            BROKEN.key,
            BROKEN.headers,
        )
        assert letter.source == "events-0-0"
        assert "nor JSON" in letter.error
        for _ in range(3):
            s.do(redrive(s.log, letter, MENDED))
            s.advance(60)
        assert [run.result for run in s.of("f")] == [1]


def test_what_cannot_be_read_again_is_a_letter_again(
    app: stepfold.App, tmp_path: Path, on: On
) -> None:
    with scenario(on(1), app, tmp_path) as s:
        s.do(s.log.append(EVENTS, 0, [BROKEN]))
        s.advance(1)
        place = s.do(redrive(s.log, s.do(letter_by_id(s.log, "0-0"))))
        s.advance(1)
        assert letters_of(s) == ["0-1", "0-0"]
        again = s.do(letter_by_id(s.log, "0-1"))
        assert (again.source, again.value) == (place, BROKEN.value)


def test_only_events_can_be_sent_again(app: stepfold.App, tmp_path: Path, on: On) -> None:
    with scenario(on(1), app, tmp_path) as s:
        s.do(s.log.append(INBOX, 0, [NewRecord(b"no message")]))
        s.advance(1)
        letter = s.do(letter_by_id(s.log, "0-0"))
        with pytest.raises(RequestRefusedError, match="only events can be sent again"):
            s.do(redrive(s.log, letter))
        for unknown in ("0-1", "7-0", "x", "0", "-", "0-99999999999999999999999999"):
            with pytest.raises(RequestRefusedError, match="no dead letter"):
                s.do(letter_by_id(s.log, unknown))
