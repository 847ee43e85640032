"""The metadata database: the engine, transactions, migrations, and pointers.

Everything durable is an immutable record in a table that its room owns; what is *current* is a pointer
(`pointers.py`). A change writes records and moves pointers in one transaction.
"""

from holdfast.backend.store.database import Store, metadata
from holdfast.backend.store.pointers import Pointers

__all__ = ["Pointers", "Store", "metadata"]
