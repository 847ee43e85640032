"""Requests that have arrived together are scored together: micro-batches without waiting.

On the event loop, a request is put down and the loop goes on reading others; when it has read all that are there, what
was put down is scored in one go. Alone, a request waits for nothing; under load a batch is as large as what arrived
while the last one was scored. Every request in a batch is answered by exactly one predictor, and one that cannot be
taken this way (see `fast`) is answered alone, the general way.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from holdfast.backend.serving.exchange import Exchange
from holdfast.backend.serving.fast import Taken
from holdfast.backend.serving.predictor import Predictor
from holdfast.backend.serving.service import Service
from holdfast.errors import HoldfastError, UnavailableError

__all__ = ["MAX_WAITING", "Batches"]

MAX_WAITING = 1_000
"""Requests that may wait for one batch; more are refused."""
_log = logging.getLogger("holdfast.serving")
R = TypeVar("R")


class _Asked(msgspec.Struct, gc=False):
    request: Any
    target: str
    body: bytes
    caller: str | None
    unit: str | None
    began: int


class Batches(Generic[R]):
    """The batches of one event loop; to be used on it only."""

    def __init__(
        self, service: Service, loop: asyncio.AbstractEventLoop, settle: Callable[[R, str | None, bytes | None], None]
    ) -> None:
        """`settle` is called with each request that was asked, its unit, and the answer as JSON; None instead of an
        answer when the request has to go the general way.
        """
        self._service = service
        self._loop = loop
        self._settle = settle
        self._waiting: list[_Asked] = []

    def ask(self, request: R, target: str, body: bytes, caller: str | None, unit: str | None = None) -> None:
        """Let `request` be settled soon. `caller` is its id of it; those of one `unit` are answered by one deployment.

        UnavailableError when too many wait.
        """
        waiting = self._waiting
        if not waiting:
            self._loop.call_soon(self._flush)
        elif len(waiting) >= MAX_WAITING:
            raise UnavailableError(f"{MAX_WAITING} requests are waiting already", hint="Repeat later, or add workers.")
        waiting.append(_Asked(request, target, body, caller, unit, time.perf_counter_ns()))

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        batches: dict[Predictor, list[tuple[_Asked, Taken]]] = {}
        service, chosen = self._service, dict[str, Predictor]()
        strict = service.strict
        for request in waiting:
            try:
                if request.unit is not None:
                    predictor = service.choose(request.target, request.unit)
                elif request.target in chosen:
                    predictor = chosen[request.target]  # nothing is on trial: one deployment answers for all
                else:
                    predictor = chosen[request.target] = service.choose(request.target)
                taken = predictor.fast.take(request.body, strict) if predictor.fast else None
            except HoldfastError:
                taken = None
            except Exception:  # noqa: BLE001 - a batch's edge: what one request met must not leave the others waiting
                _log.exception("a request could not be read the fast way")
                taken = None
            if taken is None:
                self._settled(request, None)
            else:
                batches.setdefault(predictor, []).append((request, taken))
        for predictor, batch in batches.items():
            self._score(predictor, batch)

    def _score(self, predictor: Predictor, batch: Sequence[tuple[_Asked, Taken]]) -> None:
        fast, service = predictor.fast, self._service
        assert fast is not None
        try:
            made = fast.answer([taken for _, taken in batch])
            answers: Sequence[bytes | None] = made.answers
            now, at = time.perf_counter_ns(), service.now()
            latencies = [(now - request.began) // 1000 for request, _ in batch]
            service.log.put(
                [
                    Exchange(made.instant, at, predictor.deployment, predictor.target, "features", latency,
                             len(taken.numbers), None, request.caller, request.body, answer)
                    for (request, taken), answer, latency in zip(batch, made.answers, latencies, strict=True)
                ]
            )  # fmt: skip
            try:
                meter = service.meter(predictor)
                if meter:
                    meter.answered(latencies, sum(len(taken.numbers) for _, taken in batch), made.outputs)
            except Exception:  # noqa: BLE001 - they are answered and logged: not to be done again for a counter
                _log.exception("a batch of %d requests could not be counted", len(batch))
        except Exception:  # noqa: BLE001 - a batch's edge: each request is answered alone and says what is wrong with it
            _log.exception("a batch of %d requests failed", len(batch))
            answers = [None] * len(batch)
        for (request, _), answer in zip(batch, answers, strict=True):
            self._settled(request, answer)
        if service.shadows and service.live.on_trial:
            for (request, _), answer in zip(batch, answers, strict=True):
                if answer is not None:
                    service.shadow_fast(request.target, request.unit, request.body, answer)

    def _settled(self, asked: _Asked, answer: bytes | None) -> None:
        try:
            self._settle(asked.request, asked.unit, answer)
        except Exception:  # noqa: BLE001 - a batch's edge: what one request met must not leave the others waiting
            _log.exception("a request could not be answered")
