"""What is told: the table for people, and medians of several rounds."""

import os
import statistics
from pathlib import Path

BEGIN, END = "<!-- faults table -->", "<!-- end of faults table -->"


def median(rounds):
    """The figures of several rounds as one; what happened in any round must not be lost in the middle."""
    figures = {}
    for key in rounds[0]:
        values = [one[key] for one in rounds]
        figures[key] = any(values) if isinstance(values[0], bool) else statistics.median(values)
        if key in ("lost", "servfail", "slowest_ms"):
            figures[f"worst_{key}"] = max(values)
    return figures


def number(value):
    return f"{value:,.0f}"


def time_of(ms):
    return f"{ms:.0f} ms" if ms < 999.5 else f"{ms / 1000:.1f} s"


def cell(figures):
    """What a program did in a row, in a few words."""
    if "failed" in figures:
        return "did not start"
    words = (("lost", "lost"), ("servfail", "failed"))
    missed = [f"**{number(figures[key])} {word}**" for key, word in words if figures[key]]
    parts = [" + ".join(missed) or "none lost"]
    if figures["slowest_ms"]:
        slow = f", {number(figures['slow'])} over 1 s" if figures["slow"] else ""
        parts.append(f"slowest {time_of(figures['slowest_ms'])}{slow}")
    if figures["apart"]:
        parts.append(f"{number(figures['apart_answered'])} of {number(figures['apart'])} sent meanwhile answered later")
    parts.append(f"{number(figures['full'])} + {number(figures['resumed'])} handshakes")
    if figures["ended"]:
        parts.append("**program ended**")
    return "; ".join(parts)


def table(rows, programs, results, versions):
    """The table in Markdown: faults by programs."""
    title = [f"{name} {versions[name]}".strip() for name in programs]
    lines = ["| what happens | " + " | ".join(title) + " |", "| --- " * (len(programs) + 1) + "|"]
    for row in rows:
        cells = [cell(results[row.key][name]) if name in results[row.key] else "" for name in programs]
        lines.append(f"| {row.text} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def caption(rounds):
    """How the table came about."""
    times = "one round" if rounds == 1 else f"medians of {rounds} rounds"
    return f"Here: {times}, on a machine with {os.cpu_count()} processors."


def put_between_markers(path: Path, text):
    """Replaces what stands between the markers of a page."""
    page = path.read_text()
    if BEGIN not in page or END not in page:
        raise SystemExit(f"{path} has no place for the table: it needs the lines {BEGIN} and {END}")
    head, rest = page.split(BEGIN, 1)
    tail = rest.split(END, 1)[1]
    path.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}")
