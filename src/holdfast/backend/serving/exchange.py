"""A request with its answer, as they went over the wire: what the prediction log keeps.

The log is written on the hot path and read seldom, so it keeps the bytes, and whoever reads takes them apart: an
`Exchange` expands to one `Logged` for each answer in it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from holdfast.core.timeline import isoformat, parse_instant

__all__ = ["Exchange", "Logged", "instant_of"]

_decode = msgspec.json.decode
_INSTANT = slice(0, 11)
_OUTPUT = ("labels", "repairs")


@dataclass(frozen=True, slots=True)
class Logged:
    """One logged answer.

    `at` and `cutoff` are instants (int64 microseconds UTC). `kind` is features, rows, rows+stored or entity. `input` is
    what was asked; `raw_rows`, the rows of tables that came with the request, is shared by all answers of that request;
    `rows_id`, the id of its first answer, names them. `data_version` names the dataset version whose
    rows were seen, `request` is the caller's own id of the request.
    """

    id: str
    at: int
    deployment: str
    target: str
    kind: str
    input: Any
    output: Any
    latency_us: int
    entity: str | None = None
    cutoff: int | None = None
    data_version: str | None = None
    rows_id: str | None = None
    raw_rows: Any = None
    request: str | None = None


class Exchange(msgspec.Struct, array_like=True, frozen=True):
    """A request and its answer as JSON: `request` as `PredictRequest`, `response` as `Reply`.

    `instant` is the millisecond that the ids of its answers name, `predictions` their number; the rest as in `Logged`.
    """

    instant: int
    at: int
    deployment: str
    target: str
    kind: str
    latency_us: int
    predictions: int
    data_version: str | None
    caller: str | None
    request: bytes
    response: bytes

    @staticmethod
    def of_older(  # noqa: PLR0917 - a row of the older log, in its order
        identity: str, at: int, deployment: str, target: str, kind: str, entity: str | None, cutoff: int | None,
        asked: str, answered: str, data_version: str | None, latency_us: int, *, rows: str | None,
    ) -> "Exchange":  # fmt: skip
        """What the log held before it kept exchanges: a row for each answer, texts are JSON."""
        given, answer = _decode(asked), {"id": identity, **_decode(answered)}
        if kind == "features":
            request: dict[str, Any] = {"features": [given]}
        else:
            answer |= {"entity": entity, "cutoff": None if cutoff is None else isoformat(cutoff)}
            question = {"id" if kind == "entity" else "entity": given["entity"], "cutoff": given["cutoff"],
                        "context": given["context"]}  # fmt: skip
            request = {"entities": [question]} if kind == "entity" else {"questions": [question]}
        if rows is not None:
            request["rows"] = msgspec.Raw(rows.encode())
        return Exchange(
            instant_of(identity) or at // 1000, at, deployment, target, kind, latency_us, 1, data_version, None,
            msgspec.json.encode(request), msgspec.json.encode({"predictions": [answer]}),
        )  # fmt: skip

    def expand(self, *, rows: bool = True) -> list[Logged]:
        """One `Logged` for each answer; without their raw rows unless `rows`."""
        request, reply = _decode(self.request), _decode(self.response)
        raw = request.get("rows") if rows else None
        return [
            Logged(
                id=answer["id"],
                at=self.at,
                deployment=self.deployment,
                target=self.target,
                kind=self.kind,
                input=given,
                output={name: answer[name] for name in _OUTPUT},
                latency_us=self.latency_us,
                entity=None if answer.get("entity") is None else str(answer["entity"]),
                cutoff=None if answer.get("cutoff") is None else parse_instant(answer["cutoff"]),
                data_version=self.data_version,
                rows_id=reply["predictions"][0]["id"] if "rows" in request else None,
                raw_rows=raw,
                request=self.caller,
            )
            for given, answer in zip(_asked(request), reply["predictions"], strict=True)
        ]

    def without(self, belongs: Callable[[Logged], bool], cleaned: Callable[[Any], Any]) -> "Exchange | None":
        """This without the answers that `belongs` says and the raw rows that `cleaned` leaves out; None: nothing stays.

        Unchanged, the very same.
        """
        request, reply = _decode(self.request), _decode(self.response)
        keep = [not belongs(entry) for entry in self.expand(rows=False)]
        before = request.get("rows")
        after = None if before is None else cleaned(before)
        if all(keep) and after == before:
            return self
        if not any(keep):
            return None
        name = next(name for name in ("features", "entities", "questions") if name in request)
        request[name] = [one for one, kept in zip(_listed(request[name]), keep, strict=True) if kept]
        reply["predictions"] = [one for one, kept in zip(reply["predictions"], keep, strict=True) if kept]
        if before is not None:
            request["rows"] = after
        return msgspec.structs.replace(
            self, predictions=sum(keep), request=msgspec.json.encode(request), response=msgspec.json.encode(reply)
        )


def instant_of(prediction: str) -> int | None:
    """The millisecond that a prediction id names; None when it is no prediction id."""
    _, _, rest = prediction.partition("-")
    try:
        return int(rest[_INSTANT], 16)
    except ValueError:
        return None


def _asked(request: Mapping[str, Any]) -> Sequence[Any]:
    """What was asked, answer by answer: rows of features, or entity, cutoff and context."""
    if "features" in request:
        return _listed(request["features"])
    entities = "entities" in request
    return [
        {
            "entity": one["id" if entities else "entity"],
            "cutoff": one.get("cutoff"),
            "context": one.get("context") or {},
        }
        for one in _listed(request["entities" if entities else "questions"])
    ]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
