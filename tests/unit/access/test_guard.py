"""What every request passes: declared roles, headers, and what browsers may not be made to do."""

import pytest

from holdfast.backend.access import Gate, Keys, Role
from holdfast.backend.api.guard import PREDICT_ROLES, Roles, admit, needs, role_of
from holdfast.backend.store import Store
from holdfast.errors import AccessError, UnauthenticatedError
from holdfast.testing.clock import FakeClock


@pytest.mark.parametrize(
    ("path", "role"),
    [
        ("/v1/targets", Role.PREDICTOR),
        ("/v1/targets/%E9%A3%8E%2F%20/predict", Role.PREDICTOR),
        ("/v1/targets/predict/predict", Role.PREDICTOR),
        ("/v1/health", Role.ANYONE),
        ("/docs/swagger-ui.css", Role.ANYONE),
        ("/v1/targets/", None),
        ("/v1/targets//predict", None),
        ("/v1/targets/x/predict/", None),
        ("/v1/targets/x/y", None),
        ("/v1/health/", None),
        ("/v1/health/x", None),
        ("/V1/health", None),
        ("/v1/healt%68", None),
        ("//v1/health", None),
        ("/v1", None),
        ("/", None),
        ("", None),
        ("/docs/..", Role.ANYONE),
        ("/docs/../v1/targets", None),
    ],
)
def test_only_declared_paths_have_a_role(path: str, role: Role | None) -> None:
    assert Roles(PREDICT_ROLES).find(path) is role


def test_the_role_of_a_function_is_what_it_declares() -> None:
    @needs(Role.VIEWER)
    def declared() -> None: ...

    def forgotten() -> None: ...

    assert role_of(declared) is Role.VIEWER
    assert role_of(forgotten) is None
    assert role_of(None) is None


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({"authorization": "Bearer {key}"}, True),
        ({"authorization": "bearer   {key} "}, True),
        ({"x-api-key": "{key}"}, True),
        ({"authorization": "Basic eDp5", "x-api-key": "{key}"}, True),
        ({"authorization": "{key}"}, False),
        ({"authorization": "Basic {key}"}, False),
        ({"authorization": "Bearer", "x-api-key": "{key}"}, False),
        ({"cookie": "key={key}"}, False),
        ({}, False),
    ],
)
def test_a_key_comes_in_one_of_two_headers(store: Store, headers: dict[str, str], found: bool) -> None:
    keys = Keys(store, FakeClock())
    key = keys.add("app", "viewer").key
    given = {name: value.format(key=key) for name, value in headers.items()}
    if found:
        assert admit(keys.gate("0.0.0.0"), Role.VIEWER, "GET", given.get).name == "app"
    else:
        with pytest.raises(UnauthenticatedError):
            admit(keys.gate("0.0.0.0"), Role.VIEWER, "GET", given.get)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8700", "127.0.0.1:8700", "127.9.9.9", "[::1]:8700", "[::1]"])
def test_without_keys_this_machine_is_answered(host: str) -> None:
    gate = Gate.open_to_local()
    assert admit(gate, Role.OPERATOR, "POST", {"host": host}.get).role is Role.OPERATOR
    own = {"host": host, "origin": f"http://{host}"}
    assert admit(gate, Role.OPERATOR, "POST", own.get).role is Role.OPERATOR


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8700", "localhost.evil.example", "127.0.0.1.evil.example:80", "192.168.1.7:8700",
     "[2001:db8::1]:8700", "", ":8700", "[", "[]", "127.0.0.1@evil.example", "::1"],
)  # fmt: skip
def test_without_keys_a_name_that_was_bound_to_this_machine_is_refused(host: str) -> None:
    for role in (Role.ANYONE, Role.PREDICTOR):
        with pytest.raises(AccessError, match="only requests to localhost"):
            admit(Gate.open_to_local(), role, "GET", {"host": host}.get)


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:9999", "http://localhost:8700", ""]
)
def test_without_keys_a_page_of_another_origin_changes_nothing(origin: str) -> None:
    gate, headers = Gate.open_to_local(), {"host": "127.0.0.1:8700", "origin": origin}
    for method in ("POST", "PUT", "PATCH", "DELETE", "BREW"):
        with pytest.raises(AccessError, match="another origin"):
            admit(gate, Role.PREDICTOR, method, headers.get)
    assert admit(gate, Role.PREDICTOR, "GET", headers.get).role is Role.OPERATOR


def test_with_keys_any_name_and_origin_will_do(store: Store) -> None:
    keys = Keys(store, FakeClock())
    headers = {"x-api-key": keys.add("app", "operator").key, "host": "ml.example", "origin": "https://app.example"}
    assert admit(keys.gate("127.0.0.1"), Role.OPERATOR, "POST", headers.get).name == "app"
