"""Feature sets and matrices: asked rows of a target, their features, and the files under `features/`."""

from holdfast.backend.features.asking import Asked, ask, context_columns, hidden_columns, only_asks
from holdfast.backend.features.files import StoredMatrix, read_matrix
from holdfast.backend.features.matrix import Matrix
from holdfast.backend.features.repository import Features

__all__ = ["Asked", "Features", "Matrix", "StoredMatrix", "ask", "context_columns", "hidden_columns", "only_asks",
           "read_matrix"]  # fmt: skip
