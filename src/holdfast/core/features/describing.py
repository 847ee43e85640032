"""Features in words: `MAX(orders.SUM(items.n), 30d)` is the largest sum of n of items, over rows of orders ..."""

from typing import TYPE_CHECKING

from holdfast.core.timeline import format_duration
from holdfast.core.words import exactly

if TYPE_CHECKING:
    from holdfast.core.features.definitions import Feature

__all__ = ["described"]


def described(feature: "Feature", *, inside: bool = False) -> str:
    """The feature in words; `inside` a phrase that names the table of its row."""
    inputs, link = feature.inputs, feature.link
    match feature.kind.value:
        case "column":
            return feature.column if inside else f"{feature.column} of {feature.table}"
        case "context":
            return f"{feature.column} of the question"
        case "cutoff":
            return "the moment of the question"
        case "direct":
            assert link is not None
            comma = "" if inputs[0].kind.value == "column" else ","
            return f"{described(inputs[0], inside=True)}{comma} of the row of {link.parent} that {link.column} names"
        case "aggregate":
            return _aggregated(feature)
        case _:
            by = link.column if link else ""
            return _worded(feature, [_Phrase.of(one, inside=inside) for one in inputs], by=by)


class _Phrase(str):
    """A feature in words within others: `{0}` as it is, `{0:the}` with its article, `{0:clause}` as a statement."""

    named: bool
    """Whether it takes no article: a column, or a time since something."""

    @staticmethod
    def of(feature: "Feature", *, inside: bool) -> "_Phrase":
        phrase = _Phrase(described(feature, inside=inside))
        phrase.named = feature.kind.value in ("column", "context", "cutoff") or phrase.startswith("time ")
        return phrase

    def __format__(self, spec: str) -> str:
        asks = self.startswith("whether ")
        if spec == "clause":
            return self.removeprefix("whether ") if asks else f"{self:the} is true"
        text = f"answer to {self[:]}" if asks else self[:]
        return f"the {text}" if spec == "the" and not self.named else text


def _aggregated(feature: "Feature") -> str:
    primitive, link = feature.primitive, feature.link
    assert primitive is not None
    assert link is not None
    by = "" if link.alone else f" by {link.column}"
    where = f" where {feature.condition.describe()}" if feature.condition else ""
    window = f" in the last {format_duration(feature.window)}" if feature.window else ""
    tail = f"{link.child}{by}{where}{window}"
    plain = all(inner.kind.value == "column" for inner in feature.inputs)
    text = _worded(feature, [_Phrase.of(one, inside=True) for one in feature.inputs], rows=f"rows of {tail}")
    if "{rows}" in primitive.words:
        return text
    return f"{text} of {tail}" if plain else f"{text}, over rows of {tail}"


def _worded(feature: "Feature", inputs: list[_Phrase], **named: str) -> str:
    assert feature.primitive is not None
    settings = {name: exactly(value) for name, value in feature.parameters}
    return feature.primitive.words.format(*inputs, **settings, **named)
