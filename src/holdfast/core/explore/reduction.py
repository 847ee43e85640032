"""Many features as two or three numbers, for pictures: PCA, t-SNE, and a neighbour graph's spectral layout.

The spectral embedding of the graph of nearest neighbours (Belkin & Niyogi 2003) is what UMAP starts from; it comes
with scikit-learn, and its coordinates are found, not sampled. See docs/decisions/0021-matrix-files-and-pictures.md.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

__all__ = ["Embedding", "Principal"]

Floats = npt.NDArray[np.float64]


class Principal(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """The `dimensions` principal components of standardised columns, nulls at the mean.

    `components_` [dimensions, columns] say what each is made of; `explained_` the share of variance of each. Signs are
    such that the largest weight of a component is positive.
    """

    def __init__(self, dimensions: int = 2) -> None:
        self.dimensions = dimensions

    def fit(self, X: Any, y: Any = None) -> "Principal":  # noqa: ARG002
        """Fit on X [n, f]; NaN is null."""
        X = validate_data(self, X, dtype=np.float64, ensure_all_finite="allow-nan", ensure_min_samples=2)
        self.mean_, self.scale_ = _moments(X)
        _, sizes, axes = np.linalg.svd(_standardised(X, self.mean_, self.scale_), full_matrices=False)
        kept = min(self.dimensions, len(axes))
        axes = axes[:kept]
        signs = np.sign(axes[np.arange(kept), np.abs(axes).argmax(axis=1)])
        self.components_ = axes * np.where(signs == 0, 1.0, signs)[:, None]
        total = (sizes**2).sum()
        self.explained_ = (sizes[:kept] ** 2) / total if total > 0 else np.zeros(kept)
        return self

    def transform(self, X: Any) -> Floats:
        """The coordinates, float64 [n, dimensions]."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, ensure_all_finite="allow-nan", reset=False)
        # One row at a time gives the same bits as all at once, which a matrix product does not.
        return np.asarray(np.einsum("ij,kj->ik", _standardised(X, self.mean_, self.scale_), self.components_))

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[np.object_]:  # noqa: ARG002
        """component 1, component 2, ..."""
        check_is_fitted(self)
        return np.array([f"component {number + 1}" for number in range(len(self.components_))], dtype=object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


class Embedding(BaseEstimator):  # type: ignore[misc]
    """A layout of rows in which neighbours stay neighbours; there is none for further rows.

    `method` is tsne (van der Maaten & Hinton 2008) or spectral (the graph of the `neighbours` nearest). Columns are
    standardised, nulls at the mean. Equal rows and seed give an equal layout.
    """

    def __init__(self, method: str = "tsne", dimensions: int = 2, neighbours: int = 30, seed: int = 42) -> None:
        self.method = method
        self.dimensions = dimensions
        self.neighbours = neighbours
        self.seed = seed

    def fit(self, X: Any, y: Any = None) -> "Embedding":
        """Lay out the rows of X [n, f]; the result is `embedding_`, float64 [n, dimensions]."""
        self.fit_transform(X, y)
        return self

    def fit_transform(self, X: Any, y: Any = None) -> Floats:  # noqa: ARG002
        """The coordinates of the rows of X."""
        from sklearn.manifold import TSNE, SpectralEmbedding

        X = validate_data(self, X, dtype=np.float64, ensure_all_finite="allow-nan", ensure_min_samples=4)
        data = _standardised(X, *_moments(X))
        if self.method == "tsne":
            near = float(min(self.neighbours, (len(data) - 1) / 3))
            layout = TSNE(self.dimensions, perplexity=near, init="pca" if min(data.shape) >= self.dimensions else
                          "random", random_state=self.seed)  # fmt: skip
        elif self.method == "spectral":
            near_by = min(self.neighbours, len(data) - 1)
            layout = SpectralEmbedding(self.dimensions, affinity="rbf" if len(data) <= near_by + 1 else
                                       "nearest_neighbors", n_neighbors=near_by, random_state=self.seed)  # fmt: skip
        else:
            raise ValueError(f"method must be tsne or spectral, not {self.method!r}")
        self.embedding_ = np.asarray(layout.fit_transform(data), np.float64)
        return self.embedding_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


def _moments(X: Floats) -> tuple[Floats, Floats]:
    null = np.isnan(X)
    count = np.maximum((~null).sum(axis=0), 1)
    mean = np.where(null, 0, X).sum(axis=0) / count
    scale = np.sqrt((np.where(null, 0.0, X - mean) ** 2).sum(axis=0) / count)
    return mean, np.where(scale > 1e-12 * np.maximum(1.0, np.abs(mean)), scale, np.inf)


def _standardised(X: Floats, mean: Floats, scale: Floats) -> Floats:
    return np.asarray(np.where(np.isnan(X), 0.0, (X - mean) / scale))
