"""Swagger UI without a content delivery network: its files come with the package fastapi-offline."""

from functools import cache
from html import escape
from importlib.util import find_spec
from pathlib import Path

from holdfast.errors import NotFoundError

__all__ = ["ASSETS", "asset", "page"]

ASSETS = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "favicon.png": "image/png",
}
"""Names of the files under /docs/, with their media types."""


@cache
def asset(name: str) -> bytes:
    """The bytes of an asset. NotFoundError when there is none of that name or the package is not installed."""
    # Only located, not imported: importing it would load FastAPI into the prediction workers.
    spec = find_spec("fastapi_offline")
    if name not in ASSETS or spec is None or not spec.submodule_search_locations:
        raise NotFoundError(f"there is no file {name!r} here")
    try:
        return (Path(spec.submodule_search_locations[0]) / "static" / name).read_bytes()
    except OSError as error:
        raise NotFoundError(f"the file {name!r} is not installed") from error


def page(title: str) -> str:
    """The page that shows /openapi.json. Where a key is needed it asks for one, and keeps it only while it is open."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<link rel="stylesheet" href="/docs/swagger-ui.css"><link rel="icon" href="/docs/favicon.png"></head>
<body><form id="key" hidden><label>API key <input type="password" autocomplete="off"></label>
<button>Show</button></form>
<div id="swagger-ui"></div><script src="/docs/swagger-ui-bundle.js"></script>
<script>
const form = document.getElementById("key"), given = form.querySelector("input");
function send(request) {{ if (given.value) request.headers["X-API-Key"] = given.value; return request; }}
async function show() {{
  const reply = await fetch("/openapi.json", send({{headers: {{}}}}));
  form.hidden = reply.status !== 401;
  if (reply.ok) SwaggerUIBundle({{spec: await reply.json(), dom_id: "#swagger-ui", deepLinking: true,
    requestInterceptor: send}});
}}
form.addEventListener("submit", event => {{ event.preventDefault(); show(); }});
show();
</script></body></html>
"""
