"""The whole project at a glance, as plain data."""

from typing import Any

from holdfast.backend.datasets import Datasets
from holdfast.backend.deployment.deployments import Deployments
from holdfast.backend.features import Features
from holdfast.backend.records import FOREIGN, ModelVersion
from holdfast.backend.registry.registry import Registry
from holdfast.backend.settings import Settings
from holdfast.core.timeline import isoformat

__all__ = ["status"]


def status(
    settings: Settings, datasets: Datasets, features: Features, registry: Registry, deployments: Deployments
) -> dict[str, Any]:
    """Data, targets with their features, models and deployment, what is being trained, and what could be done next."""
    data = datasets.current()
    matrices = features.matrices()
    pointers = deployments.pointers()
    targets = {}
    for name in settings.targets:
        current = registry.current(name)
        matrix = next((m for m in matrices if m.target == name), None)
        deployed = deployments.get(pointers[name]) if name in pointers else None
        targets[name] = {
            "matrix": None if matrix is None else {"rows": matrix.rows, "period": matrix.period, "path": matrix.path},
            "models": {version.label: _model(version) for version in current},
            "data_version": _data_version(datasets, current[0]) if current else None,
            "deployment": None
            if deployed is None
            else {
                "id": deployed.id,
                "made_at": isoformat(deployed.made_at),
                "models": {label: registry.get(model).version for label, model in deployed.models.items()},
            },
        }
    return {
        "project": settings.project,
        "data": None
        if data is None
        else {
            "version": data.version,
            "state": data.state,
            "period": data.period,
            "versions": len(datasets.list()),
            "rows": data.rows,
            "quarantined": len(datasets.quarantine(data.id)),
        },
        "targets": targets,
        "training": [run.target for run in registry.runs(state="running")],
        "next": _next(data is not None, targets),
    }


def _data_version(datasets: Datasets, version: ModelVersion) -> str:
    """The name of the data version a model was trained on; one of another project stays marked."""
    foreign = version.dataset.startswith(FOREIGN)
    return version.dataset if foreign else datasets.get(version.dataset).version


def _model(version: ModelVersion) -> dict[str, Any]:
    return {"version": version.version, "made_at": isoformat(version.made_at), "metrics": version.metrics}


def _next(has_data: bool, targets: dict[str, Any]) -> str:
    """The command that would bring the project on, or nothing."""
    if not has_data:
        return "holdfast ingest PERIOD FILES..."
    for name, target in targets.items():
        if not target["models"]:
            return f"holdfast train {name}"
        newest = {label: model["version"] for label, model in target["models"].items()}
        if target["deployment"] is None or target["deployment"]["models"] != newest:
            return f"holdfast deploy {name}"
    return "" if targets else "add a target to holdfast.yaml"
