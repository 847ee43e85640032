"""The row as a pydantic model."""

from pydantic import BaseModel


class Row(BaseModel):
    x00: float
    x01: float
    x02: float
    x03: float
    x04: float
    x05: float
    x06: float
    x07: float
    x08: float
    x09: float
    x10: float
    x11: float
    x12: float
    x13: float
    x14: float
    x15: float
    x16: float
    x17: float
    x18: float
    x19: float
    x20: float
    x21: float
    x22: float
    x23: float
    x24: float
    x25: float
    x26: float
    x27: float
    x28: float
    x29: float
