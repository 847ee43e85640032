"""Who may do what: API keys with roles, and the gate that every request passes."""

from holdfast.backend.access.gate import NOBODY, Caller, Gate, Role, Watch
from holdfast.backend.access.keys import ApiKey, Keys, NewKey, is_loopback

__all__ = ["NOBODY", "ApiKey", "Caller", "Gate", "Keys", "NewKey", "Role", "Watch", "is_loopback"]
