"""Feature sets and matrices: asked rows of a target, their features, and the files under `features/`."""

from holdfast.backend.features.matrix import Matrix

__all__ = ["Matrix"]
