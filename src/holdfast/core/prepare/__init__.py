"""From raw cells to typed, checked rows, and from deliveries to states of rows.

`times` and `convert` read cells, `infer` proposes types, `contract` holds rules, `delivery` puts them to work on one
delivered table, and `states` says what a delivery changes of what was known.
"""

from holdfast.core.prepare.contract import ColumnContract, TableContract
from holdfast.core.prepare.convert import Converted, convert
from holdfast.core.prepare.delivery import QUARANTINE, Declared, Delivered, Source, TableRule, prepare_delivery
from holdfast.core.prepare.infer import Proposal, propose
from holdfast.core.prepare.states import Changes, current_states, keyed_changes, row_ids, superseded_at, unkeyed_changes

__all__ = [
    "QUARANTINE",
    "Changes",
    "ColumnContract",
    "Converted",
    "Declared",
    "Delivered",
    "Proposal",
    "Source",
    "TableContract",
    "TableRule",
    "convert",
    "current_states",
    "keyed_changes",
    "prepare_delivery",
    "propose",
    "row_ids",
    "superseded_at",
    "unkeyed_changes",
]
