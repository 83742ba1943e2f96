"""The agent loop, in virtual time."""

from examples.agent import app as agent
from stepfold.testing import MakeEnvironment, assert_deterministic, crash_everywhere

ASKED = {"name": "agent/asked"}


def test_the_agent_squares_three_numbers(stepfold_env: MakeEnvironment) -> None:
    env = stepfold_env(agent.app)
    run = env.send("agent/asked").run
    assert run.result["turns"] == 4
    assert "4 squared is 16" in run.result["answer"]
    assert [step.name for step in run.steps] == [
        "model", "tool", "model:1", "tool:1", "model:2", "tool:2", "model:3",
    ]  # fmt: skip


def test_a_model_that_talks_for_ever_is_stopped(stepfold_env: MakeEnvironment) -> None:
    env = stepfold_env(agent.app)
    model = env.stub("model", returns={"tool": "square", "argument": 1, "answer": ""})
    run = env.send("agent/asked").run
    assert run.result == {"answer": None, "turns": agent.TURNS_MAX}
    assert len(model.calls) == agent.TURNS_MAX
    assert len(model.calls[-1].args[0]) == agent.TURNS_MAX - 1


def test_a_tool_that_hangs_is_tried_again(stepfold_env: MakeEnvironment) -> None:
    env = stepfold_env(agent.app)
    env.stub("tool:1", returns=0, takes="1h", times=1)
    run = env.send("agent/asked").run
    env.finish()
    assert run.step("tool:1").failures[0].name == "TimeoutError"
    assert run.result["turns"] == 4


def test_calls_are_paid_for_once_wherever_the_process_dies() -> None:
    """What has its outcome in the log is not called again; only what was under way is."""
    report = crash_everywhere(agent.research, ASKED)
    assert report.points > 20


def test_the_agent_is_deterministic() -> None:
    assert_deterministic(agent.research, ASKED)
