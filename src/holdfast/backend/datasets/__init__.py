"""Versions of all tables together: immutable parts, manifests, quarantine, raw files, and the way back."""

from holdfast.backend.datasets.compare import Comparison, TableComparison
from holdfast.backend.datasets.repository import POINTER, STATES, Datasets, Draft

__all__ = ["POINTER", "STATES", "Comparison", "Datasets", "Draft", "TableComparison"]
