"""Fitting one model: gradient-boosted trees with early stopping, and a threshold chosen on validation rows.

Why rows are not reweighted for imbalance: weights (or resampling) shift every probability away from the observed
frequency and do not improve the ranking (van den Goorbergh et al. 2022, doi:10.1093/jamia/ocac093). Probabilities are
kept as they are, and `imbalance: auto` moves the decision instead: the threshold of the highest F1 on validation rows.
Whoever wants weights can give `scale_pos_weight` among the parameters.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from holdfast.core.learn.forest import Forest, compile_forest, link_outputs
from holdfast.core.learn.metrics import best_threshold
from holdfast.core.learn.split import TRAIN, VALIDATE
from holdfast.errors import ConfigError, InputError

__all__ = ["DEFAULTS", "Fitted", "Recipe", "fit", "of_estimator", "output_of"]

DEFAULTS: Mapping[str, Any] = {
    "n_estimators": 3000,
    "learning_rate": 0.03,
    "max_depth": 5,
    "min_child_weight": 5.0,
    "subsample": 0.8,
    "colsample_bytree": 0.5,
    "reg_lambda": 5.0,
    "max_bin": 256,
}
"""Small steps and shrinkage for tables of thousands of rows and hundreds of correlated features; early stopping
bounds the rounds (`n_estimators` only caps them)."""
_ROUNDS_WITHOUT_VALIDATION = 300
_OURS = {
    "objective", "num_class", "booster", "tree_method", "device", "missing", "enable_categorical", "eval_metric",
    "early_stopping_rounds", "callbacks", "seed", "random_state", "n_jobs", "nthread", "verbosity", "base_score",
    "num_parallel_tree", "multi_strategy", "importance_type",
}  # fmt: skip
_OBJECTIVES = {
    "multilabel": ("binary:logistic", "logloss"),
    "binary": ("binary:logistic", "logloss"),
    "multiclass": ("multi:softprob", "mlogloss"),
    "regression": ("reg:squarederror", "rmse"),
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to fit: `patience` rounds without a better validation loss end the training; `imbalance` auto or none."""

    patience: int = 50
    imbalance: str = "auto"
    seed: int = 42
    parameters: Mapping[str, Any] | None = None

    def resolved(self) -> dict[str, Any]:
        """All parameters of the algorithm; ConfigError for one that Holdfast sets itself."""
        given = dict(self.parameters or {})
        if clash := sorted(_OURS & set(given)):
            raise ConfigError(
                f"parameter {clash[0]!r} is set by Holdfast and cannot be given",
                where={"key": f"training.parameters.{clash[0]}"},
            )
        return {**DEFAULTS, **given}


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fitted model.

    `estimator` is an XGBClassifier or XGBRegressor that holds the best rounds only; `json` and `ubj` its booster.
    `engine` is `forest` when the kernel gave every row's margin and output bit for bit, else `booster`. `history` has
    the validation loss of each round. `threshold` is None for tasks without one; `note` says what is out of the usual.
    """

    estimator: Any
    task: str
    threshold: float | None
    rounds: int
    history: tuple[float, ...]
    forest: Forest | None
    engine: str
    json: bytes
    ubj: bytes
    note: str = ""


def fit(
    task: str,
    matrix: npt.NDArray[np.float32],
    truth: npt.NDArray[np.float64],
    part: npt.NDArray[np.int8],
    recipe: Recipe,
    *,
    classes: int = 0,
    threads: int = 1,
    progress: Callable[[int, float], None] | None = None,
) -> Fitted:
    """Fit on rows of part TRAIN, stop and choose the threshold on VALIDATE.

    `matrix` [n, features] holds no infinity, `truth` [n] no NaN. `progress(round, loss)` is called after each round.
    Equal arguments give an equal model byte for byte, on one machine at least. InputError when the training rows do not
    hold what the task needs; ConfigError for parameters the algorithm does not know.
    """
    train, validate = part == TRAIN, part == VALIDATE
    _check_labels(task, truth[train], classes)
    parameters = recipe.resolved()
    if task == "multiclass" and classes == 2:
        parameters["num_class"] = 2  # XGBClassifier says so itself from three on
    note = ""
    if not validate.any():
        parameters["n_estimators"] = (recipe.parameters or {}).get("n_estimators", _ROUNDS_WITHOUT_VALIDATION)
        note = f"no validation rows: {parameters['n_estimators']} rounds without early stopping"
    losses: list[float] = []
    estimator = _estimator(
        task, parameters, recipe, threads, stop=bool(validate.any()), report=_reporter(losses, progress)
    )
    held_out = [(matrix[validate], truth[validate])] if validate.any() else None
    _train(estimator, matrix[train], truth[train], held_out)
    rounds = int(estimator.best_iteration) + 1 if held_out else int(estimator.get_booster().num_boosted_rounds())
    final = _trimmed(estimator, task, parameters, recipe, rounds)
    threshold = None
    if task in ("binary", "multilabel"):
        outputs = output_of(final, matrix[validate]) if validate.any() else np.empty(0)
        chosen = best_threshold(truth[validate], outputs) if recipe.imbalance == "auto" else 0.5
        if chosen is None:
            note = "; ".join(filter(None, [note, "no threshold could be chosen on validation rows: 0.5 is used"]))
        threshold = 0.5 if chosen is None else chosen
    return replace(of_estimator(final, task, threshold, matrix), rounds=rounds, history=tuple(losses), note=note)


def of_estimator(estimator: Any, task: str, threshold: float | None, matrix: npt.NDArray[np.float32]) -> Fitted:
    """A fitted estimator in all its forms; the engine is chosen by replaying the rows of `matrix`."""
    booster = estimator.get_booster()
    json, ubj = bytes(booster.save_raw("json")), bytes(booster.save_raw("ubj"))
    forest = compile_forest(json)
    proven = forest is not None and _proven(forest, booster, matrix)
    return Fitted(
        estimator=estimator,
        task=task,
        threshold=threshold,
        rounds=int(booster.num_boosted_rounds()),
        history=(),
        forest=forest if proven else None,
        engine="forest" if proven else "booster",
        json=json,
        ubj=ubj,
    )


def output_of(estimator: Any, matrix: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The estimator's own answers: probability of the positive class or number [n], or probabilities [n, classes]."""
    answer = estimator.get_booster().inplace_predict(matrix, validate_features=False)
    return np.asarray(answer, np.float64)


def _check_labels(task: str, truth: npt.NDArray[np.float64], classes: int) -> None:
    if not len(truth):
        raise InputError("there is no labelled row to train on", hint="Widen the training part of `split`.")
    if task == "regression":
        if not np.isfinite(truth).all() or np.abs(truth).max() > np.finfo(np.float32).max:
            raise InputError("the label holds numbers beyond float32", hint="Rescale it in the SQL of the label.")
        return
    found = len(np.unique(truth))
    wanted = classes if task == "multiclass" else 2
    if found < 2:
        raise InputError(
            f"all {len(truth)} training rows have the same label; nothing can be learnt from them",
            hint="Widen the training part of `split`, or leave this label out.",
        )
    if found < wanted:
        raise InputError(
            f"only {found} of {wanted} classes occur among the training rows",
            hint="Split by stratified, or merge classes.",
        )


def _estimator(
    task: str, parameters: dict[str, Any], recipe: Recipe, threads: int | None, *, stop: bool, report: Any
) -> Any:
    import xgboost

    objective, loss = _OBJECTIVES[task]
    kind = xgboost.XGBRegressor if task == "regression" else xgboost.XGBClassifier
    return kind(
        **parameters,
        objective=objective,
        eval_metric=loss,
        tree_method="hist",
        random_state=recipe.seed,
        n_jobs=threads,
        early_stopping_rounds=recipe.patience if stop else None,
        callbacks=[report] if report is not None else None,
    )


def _reporter(losses: list[float], progress: Callable[[int, float], None] | None) -> Any:
    from xgboost.callback import TrainingCallback

    class Reporter(TrainingCallback):  # type: ignore[misc]
        def after_iteration(self, model: Any, epoch: int, evals_log: Mapping[str, Any]) -> bool:  # noqa: ARG002
            loss = next((values[-1] for data in evals_log.values() for values in data.values()), float("nan"))
            losses.append(float(loss))
            if progress is not None:
                progress(epoch + 1, float(loss))
            return False

    return Reporter()


def _train(estimator: Any, matrix: Any, truth: Any, held_out: Any) -> None:
    from xgboost.core import XGBoostError

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            estimator.fit(matrix, truth, eval_set=held_out, verbose=False)
        except (XGBoostError, TypeError, ValueError) as error:
            text = str(error).strip().splitlines()
            raise ConfigError(
                f"XGBoost refuses these parameters: {text[0] if text else error!r}",
                where={"key": "training.parameters"},
            ) from error
    for warning in caught:
        if "are not used" in str(warning.message):
            names = str(warning.message).split("{")[-1].split("}")[0].strip()
            raise ConfigError(f"XGBoost knows no parameter {names}", where={"key": "training.parameters"})
    for warning in caught:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def _trimmed(estimator: Any, task: str, parameters: dict[str, Any], recipe: Recipe, rounds: int) -> Any:
    """An estimator with the best rounds only, without callbacks: whoever opens the package sees nothing of Holdfast."""
    final = _estimator(task, {**parameters, "n_estimators": rounds}, recipe, None, stop=False, report=None)
    final.load_model(bytearray(estimator.get_booster()[:rounds].save_raw("ubj")))
    return final


def _proven(forest: Forest, booster: Any, matrix: npt.NDArray[np.float32]) -> bool:
    """Whether the kernel gives the booster's margins and outputs, bit for bit, on all rows and one without values."""
    rows = np.vstack([matrix, np.full((1, matrix.shape[1]), np.nan, np.float32)])
    theirs = booster.inplace_predict(rows, predict_type="margin", validate_features=False)
    ours = forest.margins(rows.astype(np.float64))
    outputs = booster.inplace_predict(rows, validate_features=False)
    return bool(
        np.array_equal(ours, np.asarray(theirs, np.float32).reshape(ours.shape))
        and np.array_equal(link_outputs(ours, forest.link), np.asarray(outputs, np.float64))
    )
