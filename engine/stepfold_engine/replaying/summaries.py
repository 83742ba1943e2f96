"""Summaries of many verdicts: for people, for CI (JUnit XML), and for a page on GitHub."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from xml.etree import ElementTree as ET

from stepfold_engine.replaying.verdicts import (
    DIVERGES,
    MISSING,
    NEW_STEPS,
    OTHER_END,
    RAISES,
    SAME,
    UNREADABLE,
    VERDICTS,
    Verdict,
)

WORDS = {
    SAME: "same",
    NEW_STEPS: "only new steps at the end",
    OTHER_END: "same steps, other end",
    RAISES: "raises",
    DIVERGES: "diverges",
    MISSING: "function is gone",
    UNREADABLE: "cannot be replayed",
}
RUNS_SHOWN = 3


@dataclass(slots=True)
class Group:
    """Runs of one function with which the same thing happens.

    Attributes:
        example: the verdict of one of them.
        runs: their ids.
        unfinished: how many of them go on.
    """

    example: Verdict
    runs: list[str] = field(default_factory=list[str])
    unfinished: int = 0

    @property
    def about(self) -> str:
        """What happens, in words."""
        one = self.example
        at = f"at '{one.step}'" if one.step else ""
        where = f"({one.place})" if one.place else ""
        head = " ".join(filter(None, (at, where)))
        return f"{head}: {one.text}" if head and one.text else head or one.text

    @property
    def shown(self) -> str:
        """Some of the runs."""
        more = len(self.runs) - RUNS_SHOWN
        return ", ".join(self.runs[:RUNS_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def grouped(verdicts: Iterable[Verdict]) -> dict[str, list[Group]]:
    """Group verdicts by function, and by what happens; the worst and the most frequent first."""
    found: dict[str, dict[tuple[str, ...], Group]] = {}
    for verdict in verdicts:
        about = (verdict.verdict, verdict.step, verdict.place, _alike(verdict))
        group = found.setdefault(verdict.function, {}).setdefault(about, Group(verdict))
        group.runs.append(verdict.run)
        group.unfinished += verdict.status == "unfinished"
    return {
        function: sorted(groups.values(), key=lambda g: (-_badness(g.example), -len(g.runs)))
        for function, groups in sorted(found.items())
    }


def _alike(verdict: Verdict) -> str:
    # Ends differ from run to run in their values.
    return verdict.text if verdict.verdict in (DIVERGES, MISSING) else ""


def _badness(verdict: Verdict) -> int:
    return VERDICTS.index(verdict.verdict) + 100 * verdict.is_bad


def fails(verdicts: Iterable[Verdict], *, strict: bool) -> bool:
    """Say whether a deploy should be held back. ``strict``: also for other ends and new steps."""
    return any(v.is_bad or (strict and v.verdict != SAME) for v in verdicts)


def junit(verdicts: Sequence[Verdict], seconds: float) -> bytes:
    """Return the verdicts as JUnit XML: a suite for each function, a case for each run."""
    root = ET.Element("testsuites", name="stepfold replay-check", time=f"{seconds:.3f}")
    by_function: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        by_function.setdefault(verdict.function, []).append(verdict)
    for function, of in sorted(by_function.items()):
        failures = sum(v.is_bad for v in of)
        skipped = sum(v.verdict == UNREADABLE for v in of)
        counts = {"tests": str(len(of)), "failures": str(failures), "skipped": str(skipped)}
        suite = ET.SubElement(root, "testsuite", {"name": function, "errors": "0", **counts})
        for verdict in of:
            case = ET.SubElement(suite, "testcase", classname=function, name=verdict.run)
            _fill(case, verdict)
    ET.indent(root)
    text: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _fill(case: ET.Element, verdict: Verdict) -> None:
    about = Group(verdict).about
    if verdict.is_bad:
        message = f"{WORDS[verdict.verdict]} {about}"
        failure = ET.SubElement(case, "failure", type=verdict.verdict, message=message)
        failure.text = f"{message}\n{verdict.advice}\n(the run is {verdict.status})"
    elif verdict.verdict == UNREADABLE:
        ET.SubElement(case, "skipped", message=verdict.text)
    elif verdict.verdict != SAME:
        ET.SubElement(case, "system-out").text = f"{WORDS[verdict.verdict]} {about}"


def markdown(verdicts: Sequence[Verdict]) -> str:
    """Return the verdicts as a page of GitHub's Markdown."""
    lines = ["## stepfold replay-check", "", "| function | runs | verdict | where |"]
    lines.append("|---|--:|---|---|")
    for function, groups in grouped(verdicts).items():
        for group in groups:
            word = WORDS[group.example.verdict]
            mark = "❌" if group.example.is_bad else "✅" if group.example.verdict == SAME else "⚠️"
            about = "" if group.example.verdict == SAME else f"{group.about}<br>{group.shown}"
            cells = (f"`{function}`", f"{len(group.runs):,}", f"{mark} {word}", _cell(about))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
