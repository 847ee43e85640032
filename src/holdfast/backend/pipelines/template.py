"""Writes a commented project file. Options and their defaults come from `settings`; only the words are here."""

from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel

from holdfast.backend.pipelines.propose import Proposal, TableProposal
from holdfast.backend.settings import FeatureSettings, ServingSettings, SplitSettings, TrainingSettings

__all__ = ["render"]

_SECTIONS: dict[str, tuple[type[BaseModel], str]] = {
    "features": (FeatureSettings, "How features are made from the tables."),
    "split": (SplitSettings, "Which rows train, validate and test."),
    "training": (TrainingSettings, "How models are trained."),
    "serving": (ServingSettings, "Where predictions are served."),
}
_WORDS = {
    "features.depth": "levels of tables that are aggregated over, 0 to 4",
    "features.windows": "how far back to look: all, or 90d, 12h, 2w ...",
    "features.primitives": "default, all, names, QUANTILE(q=0.1); -NAME drops one",
    "features.conditions": "auto, none, or {table.column: [value, ...]}",
    "features.conditional": "primitives that are also asked under conditions",
    "features.windowed": "further primitives that get windows: [TREND]",
    "features.seeds": "taken as columns: {table: [formula]}",
    "features.max": "at most so many features",
    "features.include": "features that survive max; formulas of further ones",
    "features.exclude": "never these tables, columns, features: [businesses.name]",
    "features.include_cutoff": "see rows at the very cutoff: mostly a leak",
    "features.frozen": "a date: what happened or was learned since is not seen",
    "features.memory": "what computing may take, such as 4GB",
    "features.missing": "null becomes: {pattern: keep, median, unknown, or a constant}",
    "features.aliases": "other names: {feature: [name]}",
    "features.strict": "true: repair nothing at prediction",
    "features.transforms": "yeo_johnson, one_hot, interactions ...",
    "features.selection": "constant, mutual_information, rfe ...",
    "features.formats": "of the matrix: pkl, parquet, h5",
    "split.by": "time, random, stratified or group",
    "split.parts": "train, validate, test; for time without the bounds below",
    "split.train": 'for time: "< 2016-01-01"',
    "split.validate": 'for time: "< 2016-07-01"',
    "split.test": 'for time: "< 2017-01-01"',
    "training.algorithm": "the learner",
    "training.early_stopping": "rounds without a better validation score",
    "training.imbalance": "auto chooses the threshold on validation rows; none takes 0.5",
    "training.seed": "same seed, same model",
    "training.on_import": "new data send a training, for a worker to do",
    "training.parameters": "of the learner: {max_depth: 4}",
    "serving.host": "0.0.0.0 listens on every interface, once there is an API key",
    "serving.port": "predictions; the control plane is on the next port",
    "serving.workers": "processes that answer",
    "serving.grpc_port": "the Open Inference Protocol over gRPC, there",
    "serving.max_body_mb": "largest request",
    "serving.access_log": "share of requests that are told in the log",
    "serving.tracing": "true: a span of each request to OpenTelemetry",
    "serving.lazy": "true: open a deployment at its first prediction",
    "serving.timeout": "how long a prediction may take",
    "serving.tls": "{certificate: server.pem, key: server.key}: speak HTTPS",
    "serving.drain": "seconds that predictions go on after SIGTERM, while /v1/ready says no",
}

_HEAD = """\
# The project file of Holdfast. Lines that begin with `#` and name a key show its default.
# A wrong key or value is refused with its line and the nearest right name.
"""
_EXAMPLE = """\
# One entry a table: its files in the folder of each delivered period. The example is one table; replace it.
tables:
  customers:
    files: customers.csv        # a name, a glob, or several; csv, tsv, Excel, ods, parquet, json lines, also .gz
    key: customer_id            # the column, or [columns], that tell rows apart
    # time: date                # when a row happened
    # delivery: increment       # or full: each delivery replaces the list
    # known: event              # when a row is known: event, event + 3d, period_start, period_end, delivery, a column
    # sheet: Sheet1             # of a workbook; by default its only or first sheet
    # links: {column: table}    # the column holds the key of a row of that table
    # columns:                  # what is declared binds; the rest is found out from the first delivery
    #   name: {type: text, personal: true}     # types: bool, int, float, category, text, time
    #   score: {type: float, nullable: true, min: 0, max: 100, unit: points, description: "..."}
    #   state: {values: [new, old], pattern: "...", aliases: [status]}
    #   day: {type: time, format: "%d.%m.%Y"}
  # A table may also derive from another one: its rows are the values of a column, with columns that belong to them.
  # towns: {from: customers, key: town, columns: [country]}
"""
_TARGETS = """\
# What is predicted: one row is one entity at one cutoff; features see only what was known strictly before it.
# targets:
#   churn:
#     from: customers           # the table whose rows ask the question
#     label: churned            # a column, or SQL over the asking row; null: no label
#     # where: "state = 'new'"  # which rows ask (SQL)
#     # entity: customers       # the table that is predicted about; `from` links to it
#     # cutoff: date            # the column that says when the question is asked
#     # context: [type]         # columns of the asking row that are known beforehand
#     # every: month            # instead of `from` and `cutoff`: each entity is asked as a month (week, 7d ...) begins
#     # horizon: 1mo            # with `every`: how far the label looks ahead, from `cutoff` to `cutoff_end`
#     # task: binary            # binary, multiclass, regression; multilabel with several `labels: {name: SQL}`
#     # label_known: date       # when the label becomes known
"""


def render(project: str, proposal: Proposal | None = None, timezone: str = "UTC") -> str:
    """The text of a project file that `settings.parse` takes: an example, or what was proposed."""
    parts = [
        _HEAD,
        f"project: {_flow(project)}\n"
        '# purpose: {problem: "...", metric: roc_auc, owner: "..."}\n'
        f"timezone: {_flow(timezone)}               # of times in files that name none\n",
    ]
    if proposal is None:
        parts += [_EXAMPLE, _TARGETS]
    else:
        parts += [
            "\n".join(["tables:", *(line for table in proposal.tables.values() for line in _table(table))]) + "\n"
        ]
        parts += [_target(proposal)]
    parts += ["\n".join(_section(name)) + "\n" for name in _SECTIONS]
    return "\n".join(parts)


def _flow(value: Any) -> str:
    """YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**9, sort_keys=False)
    return str(text).removesuffix("\n").removesuffix("\n...").strip()


def _section(name: str) -> Iterator[str]:
    model, words = _SECTIONS[name]
    yield f"# {words}"
    yield f"# {name}:"
    for field, info in model.model_fields.items():
        key = info.alias or field
        default = list(info.default) if isinstance(info.default, tuple) else info.default
        shown = f"#   {key}: {'' if default is None else _flow(default)}".rstrip()
        yield f"{shown:<45} # {_WORDS[f'{name}.{key}']}"


def _table(table: TableProposal) -> Iterator[str]:
    for note in table.notes:
        yield f"  # {_one_line(note)}"
    yield f"  {_flow(table.name)}:"
    yield f"    files: {_flow(table.files)}"
    if table.key:
        yield f"    key: {_flow(table.key[0] if len(table.key) == 1 else list(table.key))}"
    if table.time:
        yield f"    time: {_flow(table.time)}"
    if table.delivery != "increment":
        yield f"    delivery: {table.delivery}"
    if table.links:
        yield f"    links: {_flow(table.links)}"
    yield "    # columns:"
    for column in table.columns:
        kind = f"    #   {_flow(column.name)}: {column.kind}"
        seen = f"{column.distinct:,} different" + (f", {column.empty:.1%} empty" if column.empty else "")
        yield f"{kind:<45} # {seen}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _target(proposal: Proposal) -> str:
    if proposal.target is None:
        return _TARGETS
    name, column = proposal.target
    table = proposal.tables[name]
    entity = next(iter(table.links.values()), None)
    lines = [
        "# What is predicted: a row is one entity at one cutoff; features see only what was known strictly before it.",
        "# A guess to begin with; take the marks away to use it:",
        "# targets:",
        f"#   {_flow(column)}:",
        f"#     from: {_flow(name)}",
        *([f"#     entity: {_flow(entity)}"] if entity else []),
        *([f"#     cutoff: {_flow(table.time)}"] if table.time else []),
        f"#     label: {_flow(column)}",
    ]
    return "\n".join(lines) + "\n"
