"""The manual's table of primitives is made from them."""

from pathlib import Path

from holdfast.core.features.primitives import DEFAULT_PRIMITIVES, PRIMITIVES, Primitive, Role

PAGE = Path(__file__).resolve().parents[3] / "docs" / "manual" / "features.md"
HEADS = {Role.AGGREGATE: "of a child's rows", Role.TRANSFORM: "of a row", Role.WITHIN: "of the rows before"}


def line(primitive: Primitive) -> str:
    named = {name: name for name in primitive.parameters}
    words = (
        primitive.words.replace(":the}", "}").replace("{0:clause}", "{0} is true").replace("{1:clause}", "{1} is true")
    )
    words = words.format(*("x", "y")[: len(primitive.takes)], rows="rows", by="link", **named)
    settings = ", ".join(n if v is None else f"{n}={v:g}" for n, v in primitive.parameters.items())
    takes = ", ".join(primitive.takes) or "rows"
    default = "yes" if primitive.name in DEFAULT_PRIMITIVES else ""
    return f"| {primitive.name}{f'({settings})' if settings else ''} | {takes} | {words} | {default} |"


def table() -> str:
    """All primitives, by what they do."""
    text = ""
    for role, head in HEADS.items():
        lines = [line(primitive) for primitive in PRIMITIVES.values() if primitive.role is role]
        text += f"| {head} | takes | what it is | default |\n|---|---|---|---|\n" + "\n".join(lines) + "\n\n"
    return text


def test_the_page_tells_every_primitive() -> None:
    assert table() in PAGE.read_text(encoding="utf-8")
