"""A file with an app, and run files of it, for tests of the commands."""

from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner, Result

from stepfold_engine.cli.loading import Target, load
from stepfold_engine.cli.program import program
from stepfold_schemas import codec
from stepfold_schemas.runfile import ExportedRun, RunFile
from tests.behaviour.scenario import Variant, scenario
from tests.replaying.shop import exported

SOURCE = """\
import stepfold

app = stepfold.App("shop")
RAN = []


async def charge(order):
    RAN.append(("charge", order))
    return {"payment": f"pay-{order}", "amount": 12}


async def reserve():
    RAN.append(("reserve",))
    return 7


@app.function("fulfil", on="shop/order", retries=0)
async def fulfil(ctx):
    order = ctx.event.data["order"]
    payment = await ctx.step.run("charge", charge, order)
    ctx.logger.warning("charged %s", order)
    await ctx.step.sleep("cool off", "1h")
    shelf = await ctx.step.run("reserve", reserve)
    share = payment["amount"] // (shelf - order)
    await ctx.step.send_event("tell", {"name": "shop/told", "data": {"share": share}})
    return {"share": share}


@app.function("plain", on="shop/plain", retries=0)
def plain(ctx):
    order = ctx.event.data["order"]
    payment = ctx.step.run("charge", charge, order)
    shelf = ctx.step.run("reserve", reserve)
    total = payment["amount"] + shelf
    return {"total": total}
"""


@dataclass
class Program:
    """The folder with the file and what was exported."""

    folder: Path

    @property
    def file(self) -> str:
        return str(self.folder / "app.py")

    def change(self, old: str, new: str) -> None:
        path = self.folder / "app.py"
        source = path.read_text()
        assert old in source
        path.write_text(source.replace(old, new))

    def run(self, event: str, order: int) -> str:
        """Have a run recorded; return the path of its file."""
        return self.write(f"{event}-{order}", [self.record(event, order)])

    def record(self, event: str, order: int) -> ExportedRun:
        app = load(Target(self.folder / "app.py"))
        folder = self.folder / f"log-{event}-{order}"
        folder.mkdir()
        with scenario(Variant("embedded", False, 1), app, folder) as s:
            run = s.ended(s.start_run(f"shop/{event}", {"order": order}))
        return exported(folder, run.id)[0]

    def write(self, name: str, runs: list[ExportedRun]) -> str:
        path = self.folder / f"{name}.avro"
        with path.open("wb") as out:
            codec.write_runs(out, RunFile(runs))
        return str(path)

    def cli(self, *args: str, stdin: str = "") -> Result:
        return CliRunner().invoke(program, list(args), input=stdin)

    def says(self, code: int, *args: str, stdin: str = "") -> str:
        result = self.cli(*args, stdin=stdin)
        assert result.exit_code == code, result.output
        return result.output


def make(folder: Path) -> Program:
    (folder / "app.py").write_text(SOURCE)
    return Program(folder)
