"""The prompt of ``stepfold sql``: history, completion of tables and columns, descriptions."""

from collections.abc import Iterable
from pathlib import Path

import typer
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory
from rich.console import Console

from stepfold_engine.cli.sqltables import print_table, wide_console
from stepfold_projections.asking import Asked
from stepfold_projections.catalogue import ALL, BY_NAME, describe
from stepfold_projections.queries import QueryError

HISTORY = Path("~/.stepfold_sql_history")
HELP = r"""\d            tables and views        \d NAME   its columns
\q, Ctrl-D    end                     a question ends with ;"""

_WORDS = (
    "SELECT", "FROM", "WHERE", "GROUP BY", "ORDER BY", "LIMIT", "JOIN", "LEFT JOIN", "USING", "ON",
    "AND", "OR", "NOT", "IN", "IS NULL", "LIKE", "HAVING", "DESC", "count(*)", "WITH", "interval",
    "now()", "date_trunc", "BETWEEN", "CASE WHEN", "DISTINCT",
)  # fmt: skip


class Names(Completer):
    """Completes tables, the columns of those that the question names, and SQL's words."""

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        """Yield what the word before the cursor may become."""
        del complete_event
        word = document.get_word_before_cursor(pattern=None)
        text = document.text.lower()
        named = [t for t in ALL if t.name in text] or list(ALL)
        columns = {c for t in named for c, _, _ in t.columns}
        for group, kind in ((list(BY_NAME), "table"), (sorted(columns), "column"), (_WORDS, "")):
            for name in group:
                if word and name.lower().startswith(word.lower()):
                    yield Completion(name, -len(word), display_meta=kind)


def converse(tables: Asked, as_of: str) -> None:
    """Ask and answer until the end of input."""
    session: PromptSession[str] = PromptSession(
        history=FileHistory(str(HISTORY.expanduser())), completer=Names()
    )
    console = wide_console()
    typer.echo(HELP)
    asked: list[str] = []
    while True:
        try:
            line = session.prompt("     > " if asked else "sql > ")
        except KeyboardInterrupt:
            asked.clear()
            continue
        except EOFError:
            return
        if not asked and line.strip() in ("\\q", "exit", "quit"):
            return
        if not asked and line.strip().startswith("\\"):
            typer.echo(_told(line.strip()))
            continue
        asked.append(line)
        if line.rstrip().endswith(";") or not line.strip():
            question = "\n".join(asked).strip().removesuffix(";")
            asked.clear()
            if question:
                _answer(console, tables, question, as_of)


def _told(command: str) -> str:
    word, _, name = command.partition(" ")
    if word != "\\d":
        return HELP
    if not name:
        return "\n".join(f"{t.name:<14} {t.about}" for t in ALL)
    return describe(name) if name in BY_NAME else f"there is no table {name}"


def _answer(console: Console, tables: Asked, question: str, as_of: str) -> None:
    try:
        result = tables.ask(question, as_of)
    except QueryError as error:
        typer.echo(str(error), err=True)
        return
    print_table(console, result)
    count = result.arrow.num_rows
    rows = "row" if count == 1 else "rows"
    typer.echo(f"({count:,} {rows}{', and more' if result.cut else ''})")
