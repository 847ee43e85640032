"""Who may use which route: the one check that every request of both servers passes before anything else.

Each route declares the role it needs: those of the control plane by `needs`, those of the prediction port in
`PREDICT_ROLES`. A route that declares none is closed to everybody, so what is forgotten is found shut, not open.
"""

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

from holdfast.backend.access import Caller, Gate, Role
from holdfast.backend.api.foreign import ROUTES
from holdfast.errors import AccessError

__all__ = ["CHALLENGE", "PREDICT_ROLES", "Roles", "admit", "needs", "role_of", "secured"]

Header = Callable[[str], str | None]
F = TypeVar("F", bound=Callable[..., Any])

CHALLENGE = ("www-authenticate", "Bearer")
"""The header that goes with a 401."""
PREDICT_ROLES: Mapping[str, Role] = {
    "/v1/targets": Role.PREDICTOR,
    "/v1/targets/{target}": Role.PREDICTOR,
    "/v1/targets/{target}/predict": Role.PREDICTOR,
    "/v1/health": Role.ANYONE,  # its details: VIEWER
    "/v1/ready": Role.ANYONE,
    "/metrics": Role.VIEWER,
    "/openapi.json": Role.PREDICTOR,
    "/docs": Role.ANYONE,
    "/docs/{name}": Role.ANYONE,
    **ROUTES,
    "/v2/": ROUTES["/v2"],
}
"""All paths of the prediction port and what they need; what is not here does not exist there."""
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_MARK = "__holdfast_needs__"


class Roles:
    """Finds the role that a path needs; a `{name}` in a template stands for one part of any content."""

    def __init__(self, roles: Mapping[str, Role]) -> None:
        self._tree: dict[str | None, Any] = {}
        for template, role in roles.items():
            node = self._tree
            for part in template.split("/"):
                node = node.setdefault(None if part.startswith("{") else part, {})
            node["/"] = role

    def find(self, path: str) -> Role | None:
        """The role that `path` (unquoted, as the server gives it) needs; None for a path that was not declared."""
        node: Any = self._tree
        for part in path.split("/"):
            node = node.get(part) or (node.get(None) if part else None)
            if node is None:
                return None
        found: Role | None = node.get("/")
        return found


def needs(role: Role) -> Callable[[F], F]:
    """Declare the role that a route of the control plane needs. Goes below the route's own decorator."""

    def mark(endpoint: F) -> F:
        setattr(endpoint, _MARK, role)
        return endpoint

    return mark


def role_of(endpoint: object) -> Role | None:
    """The role that a route's function was declared to need; None when it was not."""
    return getattr(endpoint, _MARK, None)


def admit(gate: Gate, role: Role, method: str, header: Header) -> Caller:
    """Who asks, when they may. AccessError otherwise.

    While a project has no keys everybody on this machine may ask, also a browser that shows a foreign page. So a Host
    that does not mean this machine is refused then (a name that was rebound to 127.0.0.1), and a change that a page of
    another origin sent. With keys neither is needed: a foreign page has none to send.
    """
    if gate.local:
        host = header("host")
        if host is not None and not _means_here(host):
            raise AccessError(
                "without API keys only requests to localhost are answered, this one was to another name",
                hint="Ask 127.0.0.1 or localhost, or make a key: holdfast keys add NAME --role ROLE",
            )
        origin = None if method in _SAFE else header("origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise AccessError(
                "this came from a page of another origin", hint="Without API keys only this server's own pages may ask."
            )
    return gate.caller(_key(header), role)


def _key(header: Header) -> str | None:
    """The key of a request. Only from headers: what is in an address ends up in histories and logs."""
    given = header("authorization")
    if given is not None:
        scheme, _, key = given.partition(" ")
        if scheme.lower() == "bearer":
            return key.strip()
    return header("x-api-key")


@lru_cache(64)
def _means_here(host: str) -> bool:
    """Whether a Host header means this machine, whatever the port."""
    name = host[: host.rfind("]") + 1] if host.startswith("[") else host.partition(":")[0]
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return name.lower() == "localhost"


def secured(document: dict[str, Any], open_paths: Sequence[str]) -> dict[str, Any]:
    """An OpenAPI document with the two ways to send a key, and the answers to who may not; in place."""
    schemes = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    document.setdefault("components", {})["securitySchemes"] = schemes
    refusal = {"content": {"application/problem+json": {"schema": {"type": "object"}}}}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            # {}: a project without keys asks for none.
            operation["security"] = [{}] if path in open_paths else [{}, {"bearer": []}, {"key": []}]
            answers = operation.setdefault("responses", {})
            answers.setdefault("403", {"description": "Who asks may not do this", **refusal})
            if path not in open_paths:
                answers.setdefault("401", {"description": "Who asks is not known", **refusal})
    return document
