"""From topic to topic: requests are read, answered in micro-batches and published; then they are acknowledged.

At least once, in that order: what was read when the process died is read and answered again. An answer has the id of
its request, so that it is there once in effect: the topic leaves a repeat out, or whoever reads tells by the id. What
can never be answered goes to the topic of dead letters with the reason; what cannot be answered now is waited for: the
batch in hand is kept and goes on where it stopped before anything new is read, since not every server gives a reader
that lives the same message again.
"""

import base64
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from holdfast.backend.api.errors import internal_problem, problem
from holdfast.backend.api.requests import PredictRequest, decode_request
from holdfast.backend.ports import Stream
from holdfast.backend.records import Message
from holdfast.backend.serving.questions import Question
from holdfast.backend.serving.service import Reply, Service
from holdfast.errors import HoldfastError, InputError, LimitError, RequestError, UnavailableError

__all__ = ["StreamReport", "Streaming", "reply_to"]

_BATCH = 256
_WAIT = 0.5
_FLUSH_AT = 4_000
"""Predictions that may wait for the log."""
_FLUSH_BYTES = 8 << 20
"""Bytes of requests whose predictions may wait for the log: far less than what it drops at."""
_PAUSES = (0.2, 5.0)
_log = logging.getLogger("holdfast.stream")
_encode = msgspec.json.Encoder(enc_hook=str).encode


@dataclass(slots=True)
class StreamReport:
    """What was done: messages read, answers and dead letters published."""

    read: int = 0
    answered: int = 0
    dead: int = 0


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request and where it came from. `kind` holds what may be answered together."""

    message: Message
    kind: tuple[object, ...]
    rows: Sequence[Any]
    request: PredictRequest


@dataclass(slots=True)
class _Batch:
    """Messages in hand, what is left to be answered (in groups), and what became of the others, by place."""

    messages: Sequence[Message]
    groups: list[list[tuple[int, _Asked]]] = field(default_factory=list)
    replies: dict[int, Reply] = field(default_factory=dict)
    problems: dict[int, dict[str, Any]] = field(default_factory=dict)

    @staticmethod
    def of(messages: Sequence[Message]) -> "_Batch":
        """Requests that may be answered together are a group; what is no request is a problem."""
        made = _Batch(messages)
        groups: dict[tuple[object, ...], list[tuple[int, _Asked]]] = {}
        for number, message in enumerate(messages):
            try:
                asked = _asked(message, number, decode_request(message.value))
            except RequestError as error:
                made.problems[number] = problem(error)[1]
            else:
                groups.setdefault(asked.kind, []).append((number, asked))
        made.groups = list(groups.values())
        return made


class Streaming:
    """Answers for `target` from the topic `source` to `answers`; `dead` takes what cannot be answered."""

    def __init__(self, service: Service, target: str, source: Stream, answers: Stream, dead: Stream) -> None:
        self._service = service
        self._target = target
        self._source, self._answers, self._dead = source, answers, dead
        self._batch: _Batch | None = None
        self._unflushed = 0
        self.report = StreamReport()

    def run(self, stopping: Callable[[], bool], *, drain: bool = False) -> StreamReport:
        """Until `stopping`, or with `drain` until nothing is left; the batch under way is finished first.

        A server that is away is waited for, at the start too, unless `drain`: then it is an UnavailableError.
        """
        pause = _PAUSES[0]
        while not stopping():
            try:
                if not self.step() and drain and not self._source.lag():
                    break
            except UnavailableError as error:
                if drain:
                    raise
                _log.warning("the stream goes on when it can: %s", error)
                _sleep(pause, stopping)
                pause = min(2 * pause, _PAUSES[1])
            else:
                pause = _PAUSES[0]
        return self.report

    def step(self) -> int:
        """Read, answer and acknowledge one batch; returns how many messages it had.

        After an UnavailableError the same batch goes on with the next call.
        """
        if self._batch is None:
            messages = self._source.read(_BATCH, _WAIT)
            if not messages:
                return 0
            self._batch = _Batch.of(messages)
        batch = self._batch
        while batch.groups:
            self._answer(batch.groups[0], batch)
            del batch.groups[0]
        self._publish(batch)
        self._batch = None
        return len(batch.messages)

    def _publish(self, batch: _Batch) -> None:
        messages, replies, problems = batch.messages, batch.replies, batch.problems
        assert len(replies) + len(problems) == len(messages)
        # First the log: an answer that was published need not be taken back then. What waits in its queue is kept
        # beside it too, so that a kill loses nothing, unless it fails.
        stats = self._service.log.stats
        if stats.waiting > _FLUSH_AT or stats.failing:
            self._flush()
        self._answers.append([
            Message(messages[number].id, _encode({**replies[number], "request": messages[number].id}),
                    messages[number].key)
            for number in sorted(replies)
        ])  # fmt: skip
        self._dead.append([_dead_letter(messages[number], problems[number]) for number in sorted(problems)])
        self._source.acknowledge(messages)
        for number, found in problems.items():
            _log.warning("message %s is a dead letter: %s", messages[number].id, found["detail"])
        self.report.read += len(messages)
        self.report.answered += len(replies)
        self.report.dead += len(problems)

    def _flush(self) -> None:
        """Let the prediction log catch up: requests over HTTP would be dropped from it, messages can wait."""
        try:
            self._service.log.flush()
        except LimitError as error:
            raise UnavailableError(error.message, where=error.where, hint=error.hint) from error
        self._unflushed = 0

    def _answer(self, group: Sequence[tuple[int, _Asked]], batch: _Batch) -> None:
        """Answer requests together; in halves where one of them cannot be, down to the one."""
        try:
            reply = self._ask([asked for _, asked in group])
        except HoldfastError as error:
            if not isinstance(error, InputError | LimitError):
                raise UnavailableError(error.message, where=error.where, hint=error.hint) from error
            found = problem(error)[1]
        except Exception:  # noqa: BLE001 - the edge of a message: one that breaks us must not stop the others
            _log.exception("a message could not be answered")
            found = internal_problem()[1]
        else:
            place = 0
            for number, asked in group:
                own = reply["predictions"][place : place + len(asked.rows)]
                batch.replies[number] = {**reply, "predictions": own}
                place += len(asked.rows)
            return
        if len(group) == 1:
            batch.problems[group[0][0]] = found
            return
        half = len(group) // 2
        self._answer(group[:half], batch)
        self._answer(group[half:], batch)

    def _ask(self, asked: Sequence[_Asked]) -> Reply:
        """Answer, and see to it that the log has taken the predictions, which drops what comes too fast."""
        rows = [row for one in asked for row in one.rows]
        self._unflushed += sum(len(one.message.value) for one in asked)
        if self._unflushed > _FLUSH_BYTES:
            self._flush()
        log = self._service.log
        for _ in range(2):
            dropped = log.stats.dropped
            reply = _replied(self._service, self._target, asked[0].request, rows)
            if log.stats.dropped == dropped:
                return reply
            self._flush()
        raise LimitError("the prediction cannot be logged", hint="The log of this process says why.")


def reply_to(service: Service, target: str, request: PredictRequest) -> Reply:
    """The service's reply to one request, in whichever of the three forms it is."""
    asked = _asked(Message("", b""), 0, request)
    return _replied(service, target, request, asked.rows)


def _replied(service: Service, target: str, request: PredictRequest, rows: Sequence[Any]) -> Reply:
    strict = None if request.strict is msgspec.UNSET else request.strict
    options: dict[str, Any] = {"explain": request.explain, "strict": strict}
    if request.features is not msgspec.UNSET:
        return service.features(target, rows, **options)
    if request.rows is not msgspec.UNSET:
        return service.rows(target, request.rows, rows, merge=request.merge, **options)
    return service.entities(target, rows, **options)


def _asked(message: Message, number: int, request: PredictRequest) -> _Asked:
    options = (request.explain, None if request.strict is msgspec.UNSET else request.strict)
    if request.features is not msgspec.UNSET:
        rows: list[Any] = request.features if isinstance(request.features, list) else [request.features]
        kind: tuple[object, ...] = ("features", *options)
    elif request.entities is not msgspec.UNSET:
        listed = request.entities if isinstance(request.entities, list) else [request.entities]
        rows, kind = [Question(one.id, one.cutoff, one.context) for one in listed], ("entities", *options)
    else:
        assert request.questions is not msgspec.UNSET
        several = request.questions if isinstance(request.questions, list) else [request.questions]
        # Raw rows are all that is seen: of one request alone.
        rows, kind = [Question(one.entity, one.cutoff, one.context) for one in several], ("rows", number)
    if not rows:
        raise RequestError("there is nothing to predict: the list is empty")
    return _Asked(message, kind, rows, request)


def _dead_letter(message: Message, found: dict[str, Any]) -> Message:
    """The reason, and the message as it came: as text where it is UTF-8."""
    kept: dict[str, Any] = {"id": message.id, "key": message.key, "position": message.position}
    try:
        kept["value"] = message.value.decode()
    except UnicodeDecodeError:
        kept["value_base64"] = base64.b64encode(message.value).decode()
    return Message(message.id, _encode({"error": found, "request": kept}), message.key)


def _sleep(seconds: float, stopping: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while not stopping() and time.monotonic() < until:
        time.sleep(0.05)
