"""The connections of the stand, each through a proxy of its own that can slow, starve, swallow, reset or refuse it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from ops import child
from ops.supervisor import Program
from shared import errors

NAME = "toxiproxy"
SEPARATOR = ">"


@dataclass(frozen=True, slots=True)
class Link:
    """One client's connections to one server."""

    client: str
    server: str
    upstream: int  # port of the server
    port: int  # where the client goes

    @property
    def name(self) -> str:
        """client>server."""
        return f"{self.client}{SEPARATOR}{self.server}"


class Proxies:
    """Toxiproxy's server at `port`, and its proxies."""

    def __init__(self, program: Path, port: int, links: Sequence[Link]) -> None:
        self._program, self._port, self._links = program, port, {link.name: link for link in links}
        self._http = httpx.AsyncClient(base_url=f"http://{child.LOOPBACK}:{port}", timeout=10, trust_env=False)

    def program(self) -> Program:
        """How to start it. It holds its proxies in memory, so nobody may end it while a run lasts."""
        command = [str(self._program), "-host", child.LOOPBACK, "-port", str(self._port)]

        def answers() -> None:
            httpx.get(f"http://{child.LOOPBACK}:{self._port}/version", timeout=2, trust_env=False).raise_for_status()

        return Program(NAME, child.guarded(command), child.environment(LOG_LEVEL="error"), answers, clean_exits=frozenset({0, -15}))

    async def make(self) -> None:
        """Have a proxy for every link."""
        wanted = [
            {"name": link.name, "listen": f"{child.LOOPBACK}:{link.port}", "upstream": f"{child.LOOPBACK}:{link.upstream}", "enabled": True}
            for link in self._links.values()
        ]
        await self._ask("POST", "/populate", wanted)

    async def poison(self, link: str, toxic: str, kind: str, stream: str, attributes: Mapping[str, Any]) -> None:
        """Add the toxic `toxic` to a link. Raises Unavailable."""
        body = {"name": toxic, "type": kind, "stream": stream, "toxicity": 1.0, "attributes": dict(attributes)}
        await self._ask("POST", f"/proxies/{link}/toxics", body)

    async def cure(self, link: str, toxic: str) -> None:
        """Remove it. Raises Unavailable."""
        await self._ask("DELETE", f"/proxies/{link}/toxics/{toxic}")

    async def refuse(self, link: str, *, refused: bool) -> None:
        """Cut every connection of a link and refuse new ones; or take them again. Raises Unavailable."""
        await self._ask("POST", f"/proxies/{link}", {"enabled": not refused})

    async def heal(self) -> None:
        """Remove every toxic, refuse nothing. Raises Unavailable."""
        await self._ask("POST", "/reset")

    async def close(self) -> None:
        """Let go of the control connection."""
        await self._http.aclose()

    async def _ask(self, method: str, path: str, body: object = None) -> None:
        try:
            answer = await self._http.request(method, path, content=None if body is None else json.dumps(body))
        except httpx.HTTPError as exc:
            raise errors.Unavailable(f"Toxiproxy does not answer: {type(exc).__name__} {exc}") from exc
        if not answer.is_success:
            raise errors.Unavailable(f"Toxiproxy refused {method} {path}: {answer.status_code} {answer.text[:200]}")
