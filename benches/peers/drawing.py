"""The table and the plot that README.md shows."""

import math
import os

BEGIN, END = "<!-- peers table -->", "<!-- end of peers table -->"
COLOURS = ["#0b5fa5", "#c2410c", "#15803d", "#7c3aed", "#a16207", "#475569"]


def cell(figures, of_ours):
    """A figure, and how many times ours it is."""
    if figures is None:
        return "-"
    times = f" ({figures / of_ours:.1f}×)" if of_ours else ""
    return f"{figures:.1f}{times}"


def table(medians, settings):
    """The table in Markdown: programs by what is measured."""
    ours = medians.get("dot-proxy", {})
    columns = [
        ("miss, µs", "miss", "cpu_us"),
        ("hit, µs", "hit", "cpu_us"),
        ("TCP, µs", "tcp", "cpu_us"),
        ("one at a time, µs", "lat", "cpu_us"),
        ("p50 of those, µs", "lat", "p50_us"),
        ("p99 of misses, µs", "miss", "p99_us"),
    ]
    lines = [
        "| | " + " | ".join(title for title, *_ in columns) + " | misses a second | memory, MiB | lost |",
        "| --- " * (len(columns) + 4) + "|",
    ]
    for name, loads in medians.items():
        cells = []
        for _, load, key in columns:
            figure = loads.get(load, {}).get(key)
            base = ours.get(load, {}).get(key) if name != "dot-proxy" else None
            cells.append(cell(figure, base))
        miss = loads.get("miss", {})
        lost = sum(figures["lost"] for figures in loads.values())
        cells += [f"{miss.get('qps', 0):,.0f}", f"{miss.get('resident_kib', 0) / 1024:.0f}", f"{lost:.0f}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    caption = (
        f"Processor time of the program for each query, in brackets as a multiple of dot-proxy's; medians of {settings.rounds} "
        f"rounds of {settings.seconds:g} s in one run, on a machine with {os.cpu_count()} processors that the load and the "
        "resolver share."
    )
    return "\n".join(lines) + f"\n\n{caption}"


def plot(curves):
    """Processor time a query against queries a second, as SVG, both axes logarithmic."""
    width, height, left, right, top, bottom = 640, 360, 60, 130, 20, 45
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return '<svg xmlns="http://www.w3.org/2000/svg" width="10" height="10"/>\n'
    low_x, high_x = min(x for x, _ in points), max(x for x, _ in points)
    low_y, high_y = min(y for _, y in points) / 1.2, max(y for _, y in points) * 1.2

    def place(x, y):
        across = (math.log(x) - math.log(low_x)) / max(math.log(high_x) - math.log(low_x), 1e-9)
        up = (math.log(y) - math.log(low_y)) / (math.log(high_y) - math.log(low_y))
        return left + across * (width - left - right), height - bottom - up * (height - top - bottom)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{(left + width - right) / 2}" y="{height - 8}" text-anchor="middle">queries a second</text>',
        f'<text x="16" y="{height / 2}" transform="rotate(-90 16 {height / 2})" text-anchor="middle">'
        "processor time a query, µs</text>",
    ]
    for x in sorted({x for x, _ in points}):
        at, _ = place(x, low_y)
        parts.append(f'<line x1="{at:.1f}" y1="{top}" x2="{at:.1f}" y2="{height - bottom}" stroke="#e2e8f0"/>')
        parts.append(f'<text x="{at:.1f}" y="{height - bottom + 16}" text-anchor="middle">{x:,}</text>')
    for y in (5, 10, 20, 50, 100, 200, 500):
        if low_y <= y <= high_y:
            _, at = place(low_x, y)
            parts.append(f'<line x1="{left}" y1="{at:.1f}" x2="{width - right}" y2="{at:.1f}" stroke="#e2e8f0"/>')
            parts.append(f'<text x="{left - 6}" y="{at + 4:.1f}" text-anchor="end">{y}</text>')
    for index, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[index % len(COLOURS)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in curve))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{width - right + 10}" y="{top + 16 * (index + 1)}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def put_into(path, text):
    """Replaces what stands between the markers of a page."""
    page = path.read_text()
    if BEGIN not in page or END not in page:
        raise SystemExit(f"{path} has no place for the table: it needs the lines {BEGIN} and {END}")
    head, rest = page.split(BEGIN, 1)
    path.write_text(f"{head}{BEGIN}\n{text}\n{END}{rest.split(END, 1)[1]}")
