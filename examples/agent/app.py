"""An agent loop: model and tools in turn, each call recorded, with a budget of turns.

The model here is a function of its input; put a real one in its place. A crash, or a failing tool,
does not pay for earlier calls again.
"""

from typing import Any, TypedDict

import stepfold

app = stepfold.App("agent")
TURNS_MAX = 6


class Reply(TypedDict):
    """What the model says: a tool to call, or its answer."""

    tool: str
    argument: int
    answer: str


async def ask_model(notes: list[str]) -> Reply:
    if len(notes) < 3:
        return {"tool": "square", "argument": len(notes) + 2, "answer": ""}
    return {"tool": "", "argument": 0, "answer": ", ".join(notes)}


@stepfold.step(retries=3, timeout="30s")
def square(n: int) -> int:
    return n * n


@app.function("research", on="agent/asked")
async def research(ctx: stepfold.Context) -> dict[str, Any]:
    notes: list[str] = []
    for turn in range(TURNS_MAX):
        reply = await ctx.step.run("model", ask_model, notes)
        if reply["answer"]:
            return {"answer": reply["answer"], "turns": turn + 1}
        result = await ctx.step.run("tool", square, reply["argument"])
        notes.append(f"{reply['argument']} squared is {result}")
    return {"answer": None, "turns": TURNS_MAX}
