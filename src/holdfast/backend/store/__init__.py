"""The metadata database: the engine, transactions, leases, migrations, pointers and the audit log.

Everything durable is an immutable record in a table that its room owns; what is *current* is a pointer
(`pointers.py`). A change writes records and moves pointers in one transaction.
"""

from holdfast.backend.store.audit import Audit, AuditEntry, AuditHead, acting, actor
from holdfast.backend.store.checkpoints import Checkpoint, Checkpoints
from holdfast.backend.store.crashpoints import crash_point
from holdfast.backend.store.database import Store, fenced, metadata
from holdfast.backend.store.erasures import Erasure, Erasures
from holdfast.backend.store.leases import Lease, Leases
from holdfast.backend.store.pointers import Pointers

__all__ = [
    "Audit",
    "AuditEntry",
    "AuditHead",
    "Checkpoint",
    "Checkpoints",
    "Erasure",
    "Erasures",
    "Lease",
    "Leases",
    "Pointers",
    "Store",
    "acting",
    "actor",
    "crash_point",
    "fenced",
    "metadata",
]
