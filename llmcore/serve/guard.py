"""Who may ask: checks of each request before anything else looks at it.

A server on this machine is within reach of every page that a browser on it shows. Such a page can send
requests to 127.0.0.1, and its own name may be made to mean 127.0.0.1 (DNS rebinding). So a request must name
this machine as its host, and one that a page of another origin sent is refused unless that was allowed.
"""

import hmac
import ipaddress
import re
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response

from .checks import RequestError
from .metrics import Metrics

OPEN = {"/", "/health"}  # without a key; and what the page consists of
METHODS, HEADERS = "GET, POST, OPTIONS", "Authorization, Content-Type"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host.

    >>> [is_loopback(host) for host in ("localhost", "127.0.0.1", "::1", "0.0.0.0", "example.org")]
    [True, True, True, False, False]
    """
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def without_port(host: str) -> str:
    """The name or number in a Host header.

    >>> without_port("localhost:8080"), without_port("[::1]:8080")
    ('localhost', '::1')
    """
    found = re.fullmatch(r"\[([^\]]*)\](?::\d+)?|([^:]*)(?::\d+)?", host)
    return (found[1] or found[2] or "") if found else ""


class Guard:
    """The application, behind the checks."""

    def __init__(
        self, app, metrics: Metrics, paths: Collection[str], local: bool, key: str | None, origins=()
    ):
        """`local`: only names of this machine count as hosts; `origins`: whose pages may ask."""
        self.app, self.metrics, self.paths = app, metrics, paths
        self.local, self.key, self.origins = local, key, set(origins)

    async def __call__(self, scope, receive, send):
        """Check, then hand on; counts the answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, path = Headers(scope=scope), scope["path"]
        origin = headers.get("origin")
        allowed = "*" in self.origins or origin in self.origins
        cors = {"Access-Control-Allow-Origin": origin, "Vary": "Origin"} if origin and allowed else {}

        async def counted(message):
            """Send on, the answer with its headers, and counted."""
            if message["type"] == "http.response.start":
                known = path if path in self.paths else "other"
                self.metrics.count("requests", 1, f'path="{known}",status="{message["status"]}"')
                message["headers"] = [
                    *message["headers"],
                    *((k.encode(), v.encode()) for k, v in cors.items()),
                ]
            await send(message)

        try:
            self._check(headers, path, scope["method"], origin, allowed)
        except RequestError as error:
            refusal = JSONResponse(error.body, error.status, error.headers)
            await refusal(scope, receive, counted)
            return
        if scope["method"] == "OPTIONS" and cors:
            more = {"Access-Control-Allow-Methods": METHODS, "Access-Control-Allow-Headers": HEADERS}
            await Response(status_code=204, headers=more)(scope, receive, counted)
            return
        await self.app(scope, receive, counted)

    def _check(self, headers, path, method, origin, allowed):
        """Raises RequestError for who may not ask."""
        host = headers.get("host", "")
        if self.local and not is_loopback(without_port(host)):
            raise RequestError(
                f"the host {host!r:.100} is not this machine; use localhost or 127.0.0.1", status=403
            )
        if origin and not allowed and origin not in (f"http://{host}", f"https://{host}"):
            raise RequestError(
                f"pages of {origin:.100} may not use this server; --cors {origin:.100} would allow it",
                status=403,
            )
        if self.key and path not in OPEN and not path.startswith("/page/") and method != "OPTIONS":
            given = headers.get("authorization", "").removeprefix("Bearer ").strip()
            if not hmac.compare_digest(given.encode(), self.key.encode()):
                message = "the API key is missing or wrong; send it as Authorization: Bearer KEY"
                raise RequestError(message, code="invalid_api_key", status=401)
