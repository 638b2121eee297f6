"""Line charts as SVG text, for light and dark pages."""

import math
from html import escape

WIDTH, HEIGHT = 720, 380
LEFT, RIGHT, TOP, BOTTOM = 70, 150, 48, 52
# One for each engine, in light and in dark mode.
COLOURS = [("#0969da", "#58a6ff"), ("#bc4c00", "#f0883e"), ("#8250df", "#bc8cff"), ("#1a7f37", "#3fb950")]


def style():
    light = "".join(f".s{i}{{--c:{c}}}" for i, (c, _) in enumerate(COLOURS))
    dark = "".join(f".s{i}{{--c:{c}}}" for i, (_, c) in enumerate(COLOURS))
    return ("text{font:13px system-ui,sans-serif;fill:#1f2328}.grid{stroke:#d1d9e0}.line{fill:none;stroke:var(--c);"
            f"stroke-width:2.5}}.dot,text.name{{fill:var(--c)}}.title{{font-size:16px;font-weight:600}}{light}"
            f"@media(prefers-color-scheme:dark){{text{{fill:#f0f6fc}}.grid{{stroke:#3d444d}}{dark}}}")


def scale(values, logarithmic):
    """The ticks of the axis, and where on it a value stands, from 0 to 1."""
    top = max(values)
    if logarithmic:
        low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(top))
        return [10 ** power for power in range(low, high + 1)], lambda y: (math.log10(y) - low) / (high - low)
    step = 10 ** math.floor(math.log10(top))
    step = next(step * part for part in (0.2, 0.5, 1, 2) if top / (step * part) <= 6)
    ticks = [step * i for i in range(math.ceil(top / step) + 1)]
    return ticks, lambda y: y / ticks[-1]


def lines(title, x_title, series, logarithmic):
    """`series` maps a name to its points; x has a logarithmic axis, y as asked for."""
    xs = sorted({x for points in series.values() for x, _ in points})
    ticks, share = scale([y for points in series.values() for _, y in points], logarithmic)
    across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    span = math.log(xs[-1] / xs[0]) or 1

    def place(x, y):
        return LEFT + across * math.log(x / xs[0]) / span, TOP + down * (1 - share(y))

    parts = [f'<text class="title" x="{LEFT}" y="26">{escape(title)}</text>',
             f'<text x="{LEFT + across / 2}" y="{HEIGHT - 10}" text-anchor="middle">{escape(x_title)}</text>']
    for tick in ticks:
        y = place(xs[0], tick)[1]
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}h{across}"/>'
                     f'<text x="{LEFT - 10}" y="{y + 4.5:.1f}" text-anchor="end">{tick:,.10g}</text>')
    for x in xs:
        at = place(x, ticks[-1])[0]
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{x}</text>')
    ends = []
    for i, (name, points) in enumerate(series.items()):
        spots = [place(*point) for point in sorted(points)]
        dots = "".join(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in spots)
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in spots)
        parts.append(f'<g class="s{i}"><path class="line" d="M{path}"/>{dots}</g>')
        ends.append((spots[-1][1], name, i))
    # Names stand at the ends of their lines, without touching each other.
    floor = 0.0
    for y, name, i in sorted(ends):
        floor = max(y, floor + 17)
        parts.append(f'<g class="s{i}"><text class="name" x="{LEFT + across + 12}" y="{floor + 4:.1f}">'
                     f'{escape(name)}</text></g>')
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'role="img" aria-label="{escape(title)}"><style>{style()}</style>\n' + "\n".join(parts) + "\n</svg>\n")
