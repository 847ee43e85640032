"""A small project on any storage, and the answers it gives."""

from pathlib import Path
from typing import Any

import holdfast
from holdfast.frontend.client import Project
from tests.integration.serving_project import write_period

PROJECT = """
project: 餐厅检查
tables:
  shops: {{files: shops.csv, key: shop_id, delivery: full, known: period_start, columns: {{shop_id: int}}}}
  visits:
    files: visits.csv
    key: visit_id
    time: date
    links: {{shop_id: shops}}
    columns: {{visit_id: int, shop_id: int, type: category, 结果: category}}
targets:
  风险:
    entity: shops
    from: visits
    cutoff: date
    context: [type]
    task: multilabel
    labels: {{高风险: "t.结果 = '差'", Low Risk: "t.score > 60"}}
features: {{depth: 1, windows: [all], max: 12}}
training: {{parameters: {{n_estimators: 15, max_depth: 3}}}}
feature_groups: {{店: {{target: 风险}}}}
{more}
"""
SHOPS = ("1", "5", "10", "38")


def storage(database: str = "sqlite", blobs: str = "local") -> str:
    """The lines of the project file that say where it lives."""
    return f"storage: {{database: '{database}', blobs: '{blobs}'}}"


def make(root: Path, more: str = "", *, gini: str = "") -> Project:
    """An open project with data and deployed models; `gini` is the text of a plugin that its features need."""
    root.mkdir(parents=True)
    text = PROJECT.format(more=more)
    if gini:
        (root / "gini.py").write_text(gini, encoding="utf-8")
        text = text.replace("max: 12", "max: 12, primitives: [COUNT, GINI]") + "plugins: [gini]\n"
    (root / "holdfast.yaml").write_text(text, encoding="utf-8")
    project = holdfast.open(root)
    for month in (1, 2):
        deliver(project, month)
    project.train()
    project.deploy()
    return project


def deliver(project: Project, month: int, **more: Any) -> None:
    """Ingest one month of made-up visits."""
    folder = project.root.parent / f"delivered-{project.root.name}-{month}"
    write_period(folder, month, **{"shops": 40, "visits": 200, **more})
    project.ingest(f"2024-0{month}", [folder])


def answers(project: Project) -> list[dict[str, Any]]:
    """What the project predicts of some shops, bit by bit, without the ids of the answers."""
    asked = [project.question(None, shop, "2024-06-01", {"type": "Routine"}) for shop in SHOPS]
    reply = project.service.entities(asked[0][0], [question for _, question in asked], explain=True)
    return [{name: value for name, value in one.items() if name != "id"} for one in reply["predictions"]]
