"""Test durable functions: the whole engine in the test's process, under virtual time.

    def test_an_order_is_shipped(stepfold_env):
        env = stepfold_env(app)
        charge = env.stub("charge", returns={"payment": "p-1"})
        run = env.send("shop/order.created", {"order_id": 7}).run
        env.advance("3d")
        env.send("shop/order.approved", {"order_id": 7})
        env.finish(run)
        assert run.result["state"] == "shipped"
        assert len(charge.calls) == 1

What there is::

    stepfold_env              the pytest fixture: makes an Environment, and closes it
    Environment               an app on the engine: send, signal, at, advance, finish, stub, …
    ├── Run, StepRecord, ErrorRecord
    │                         how runs stand, with their steps and errors
    ├── Sent, SentEvent       what the test sent, what the app sent
    ├── Stub, Call            what stands in the place of a step's body
    └── Later                 what is to happen at a time
    crash_everywhere          kills the process at every point: does anything come out differently?
    assert_deterministic      replays under other conditions: does code outside steps matter?

It needs the engine: ``pip install 'stepfold[engine]'``.
"""

try:
    from stepfold.testing.crashes import Crash, CrashReport, crash_everywhere
    from stepfold.testing.determinism import Finding, assert_deterministic
    from stepfold.testing.environment import Environment, MakeEnvironment
    from stepfold.testing.errors import (
        CrashFoundError,
        NotAsExpectedError,
        NotDeterministicError,
        NotThereError,
        NotTriedWarning,
        RunNotCompletedError,
        StuckError,
        UnstableStoryError,
    )
    from stepfold.testing.happenings import Later, Sent, SentEvent
    from stepfold.testing.records import ErrorRecord, StepRecord
    from stepfold.testing.runs import Run
    from stepfold.testing.stubs import Call, Stub
except ModuleNotFoundError as error:
    if (error.name or "").startswith("stepfold"):
        raise
    missing = f"stepfold.testing needs the engine ({error.name} is not installed)"
    raise ImportError(f"{missing}: pip install 'stepfold[engine]'") from error

__all__ = [
    "Call",
    "Crash",
    "CrashFoundError",
    "CrashReport",
    "Environment",
    "ErrorRecord",
    "Finding",
    "Later",
    "MakeEnvironment",
    "NotAsExpectedError",
    "NotDeterministicError",
    "NotThereError",
    "NotTriedWarning",
    "Run",
    "RunNotCompletedError",
    "Sent",
    "SentEvent",
    "StepRecord",
    "Stub",
    "StuckError",
    "UnstableStoryError",
    "assert_deterministic",
    "crash_everywhere",
]
