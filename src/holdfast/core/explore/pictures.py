"""Pictures of discoveries: an SVG drawn here, and a Vega-Lite document of the same."""

from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

from holdfast.core.explore.discovery import Discovery

__all__ = ["svg", "vega_lite"]

_WIDTH, _LEFT, _RIGHT, _ROW = 960, 40, 920, 46
_OUTSIDE, _INSIDE, _INK, _FAINT = "#9aa5b1", "#c2410c", "#1f2933", "#d5dbe1"


def svg(found: Sequence[Discovery]) -> str:
    """Of each label the strongest features: the mean label where the rule holds (filled), and where not (hollow).

    Below are the strongest pairs: the share found (filled) and the one that both features alone would give (hollow).
    """
    body: list[str] = []
    y = 20
    for one in found:
        y = _section(body, one, y)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{y + 10}" viewBox="0 0 {_WIDTH} {y + 10}" '
        f'font-family="sans-serif" font-size="13" fill="{_INK}">'
    )
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *body, "</svg>", ""])


def _section(body: list[str], one: Discovery, y: int) -> int:
    said = f"{one.label}: {one.base:.4g} {'on average' if one.numeric else 'of the rows'}, {one.rows:,} training rows"
    body.append(f'<text x="{_LEFT}" y="{y + 8}" font-size="17" font-weight="bold">{escape(said)}</text>')
    y += 34
    rows = [(s.words, s.training.mean_outside, s.training.mean_inside) for s in one.singles]
    y = _rows(body, rows, one.base, y)
    if one.pairs:
        body.append(f'<text x="{_LEFT}" y="{y + 4}" font-weight="bold">Pairs that say more together</text>')
        y = _rows(body, [(p.words, p.expected, p.share) for p in one.pairs], None, y + 24)
    return y + 20


def _rows(body: list[str], rows: Sequence[tuple[str, float, float]], base: float | None, y: int) -> int:
    values = [value for _, outside, inside in rows for value in (outside, inside)] + (
        [base] if base is not None else []
    )
    low, high = min([0.0, *values]), max([*values, 1e-12])

    def at(value: float) -> float:
        return round(_LEFT + (_RIGHT - _LEFT) * (value - low) / (high - low), 1)

    for words, outside, inside in rows:
        lines = _wrapped(words)
        for number, line in enumerate(lines):
            body.append(f'<text x="{_LEFT}" y="{y + 16 * number}">{escape(line)}</text>')
        y += 16 * len(lines)
        body.append(f'<line x1="{_LEFT}" x2="{_RIGHT}" y1="{y}" y2="{y}" stroke="{_FAINT}"/>')
        if base is not None:
            body.append(f'<line x1="{at(base)}" x2="{at(base)}" y1="{y - 6}" y2="{y + 6}" stroke="{_OUTSIDE}"/>')
        a, b = sorted((at(outside), at(inside)))
        body.append(f'<line x1="{a}" x2="{b}" y1="{y}" y2="{y}" stroke="{_INSIDE}" stroke-width="3"/>')
        body.append(f'<circle cx="{at(outside)}" cy="{y}" r="5" fill="white" stroke="{_OUTSIDE}" stroke-width="2"/>')
        body.append(f'<circle cx="{at(inside)}" cy="{y}" r="6" fill="{_INSIDE}"/>')
        y += _ROW - 16
    return y


def _wrapped(text: str, width: int = 125) -> list[str]:
    """Lines of about `width` columns; a wide (Chinese) character takes two."""
    lines, line, used = [], "", 0
    for word in text.split(" "):
        size = sum(2 if ord(char) > 0x2E7F else 1 for char in word) + 1
        if line and used + size > width:
            lines.append(line)
            line, used = "", 0
        line, used = f"{line} {word}" if line else word, used + size
    return [*lines, line]


def vega_lite(found: Sequence[Discovery]) -> dict[str, Any]:
    """The features of the picture as a Vega-Lite 5 document, one row of the page a label."""
    values = [
        {"label": one.label, "feature": single.feature, "rule": single.rule, "words": single.words,
         "where": where, "mean": mean}
        for one in found
        for single in one.singles
        for where, mean in (("rule holds", single.training.mean_inside), ("else", single.training.mean_outside))
    ]  # fmt: skip
    y = {"field": "rule", "type": "nominal", "sort": None, "title": None, "axis": {"labelLimit": 0}}
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "data": {"values": values},
        "facet": {"row": {"field": "label", "type": "nominal", "title": None}},
        "resolve": {"scale": {"y": "independent", "x": "independent"}},
        "spec": {
            "width": 500,
            "mark": {"type": "point", "filled": True, "size": 90},
            "encoding": {
                "y": y,
                "x": {"field": "mean", "type": "quantitative", "title": "mean of the label"},
                "color": {"field": "where", "type": "nominal", "title": None},
                "tooltip": [{"field": "words"}],
            },
        },
    }
