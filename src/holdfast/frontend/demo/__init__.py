"""Demo data: a city's food inspections, several related tables a month, in Chinese and English."""

from collections.abc import Callable
from pathlib import Path

__all__ = ["DELIVERIES", "generate"]

DELIVERIES = "deliveries"
"""The folder, inside the demo project, that holds what the city delivers."""

_PROJECT = """\
# A demo: the food inspections of a city that does not exist. `holdfast init` writes a file with every option.
project: 美食之城
purpose:
  problem: find the kitchens where a routine visit will find a high risk (高风险)
  metric: roc_auc
timezone: Asia/Shanghai                # of the times in the files

tables:
  餐厅:                                # every restaurant open that month: a full list, known when the month ends
    files: 餐厅.csv
    key: 餐厅编号
    delivery: full
    columns:
      名称: text
      english_name: text
      业主身份证: {type: text, personal: true}
  inspections:                         # what was found is known when the visit happens
    files: inspections.xlsx
    key: [restaurant_id, date, type]
    time: date
    links: {restaurant_id: 餐厅}
    columns:
      score: {type: int, min: 0, max: 100, unit: points}
  violations:                          # no key: a row's content is its key
    files: violations.csv
    time: date
    links: {restaurant_id: 餐厅}
    columns:
      description: text
  投诉:
    files: 投诉.csv
    key: 投诉编号
    time: 日期
    links: {餐厅编号: 餐厅}
    columns:
      内容: category

targets:
  风险:                                # does a routine visit find a violation of this risk?
    entity: 餐厅
    from: inspections
    where: "type = '例行'"
    cutoff: date                       # features see only what was known strictly before the visit
    context: [inspector]               # known before the visit
    task: multilabel
    labels:
      高风险: >-
        exists(select 1 from violations v
        where v.restaurant_id = t.restaurant_id and v.date = t.date and v.风险 = '高风险')
      中风险: >-
        exists(select 1 from violations v
        where v.restaurant_id = t.restaurant_id and v.date = t.date and v.风险 = '中风险')
      低风险: >-
        exists(select 1 from violations v
        where v.restaurant_id = t.restaurant_id and v.date = t.date and v.风险 = '低风险')
  评分:                                # and which score will it get?
    entity: 餐厅
    from: inspections
    where: "type = '例行'"
    cutoff: date
    context: [inspector]
    task: regression
    label: score

features: {depth: 2, windows: [all, 90d, 365d]}
feature_groups:                        # what is looked up together, by restaurant: `holdfast features materialise`
  厨房:
    entity: 餐厅
    features: ["MEAN(inspections.score, 365d)", "COUNT(violations*)", MODE(violations.风险), 区]
    owner: team-food
    description: how the kitchen fared when it was visited
    tags: {domain: 卫生}
  邻里: {entity: 餐厅, features: ["COUNT(投诉, 90d)", TIME_SINCE_LAST(投诉)], ttl: 3650d, owner: team-service}
split: {by: time, train: "< 2024-01-01", validate: "< 2024-04-01", test: "< 2024-07-01"}
"""


def generate(folder: Path, seed: int = 7, report: Callable[[int, int, str], None] = lambda *_: None) -> list[str]:
    """Write `holdfast.yaml` and 18 months of deliveries into `folder`; returns the names of the months.

    Raises FileExistsError when they are there already.
    """
    from holdfast.frontend.demo.city import build
    from holdfast.frontend.demo.deliveries import write

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "holdfast.yaml").open("x", encoding="utf-8") as file:
        file.write(_PROJECT)
    return write(build(seed), folder / DELIVERIES, seed, report)
