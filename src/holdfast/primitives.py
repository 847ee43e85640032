"""For primitives of your own: derive a class from `Aggregation` or `Transform` (docs/manual/features.md)."""

from holdfast.core.features.plugins import Aggregation, Transform

__all__ = ["Aggregation", "Transform"]
