"""One deployment, whatever is deployed meanwhile: what a batch is answered by, and what an exported folder holds."""

import threading

from holdfast.backend.records import DatasetVersion
from holdfast.backend.serving.loader import Live, Sources
from holdfast.backend.serving.predictor import Predictor
from holdfast.backend.serving.questions import StoredData, check_schema
from holdfast.core.schema import Schema
from holdfast.errors import NotFoundError, UnavailableError

__all__ = ["Pinned"]


class Pinned(Live):
    """A `Live` that never changes: one predictor and, where there is one, one version of the data."""

    def __init__(self, sources: Sources, predictor: Predictor, data: DatasetVersion | None) -> None:
        super().__init__(sources)
        self._rows_of = sources.tables
        self._pinned = predictor
        self._data = data
        self._rows: StoredData | None = None
        self._reading = threading.Lock()

    def predictor(self, target: str) -> Predictor:
        """The predictor. NotFoundError for another target."""
        if target != self._pinned.target:
            raise NotFoundError(
                f"nothing is deployed for the target {target!r}", where={"target": target},
                hint=f"Here is only {self._pinned.target!r}.",
            )  # fmt: skip
        return self._pinned

    def stored(self, predictor: Predictor) -> StoredData:
        """The rows of the one version. UnavailableError when there is none; ConflictError when they do not fit."""
        if self._data is None:
            raise UnavailableError(
                "there are no stored rows here", hint="Ask by features, or send the rows with the question."
            )
        with self._reading:
            if self._rows is None:
                schema = Schema.from_dict(self._data.schema)
                check_schema(predictor.feature_set, schema)
                self._rows = StoredData.build(self._data.version, schema, self._rows_of(self._data))
        return self._rows
