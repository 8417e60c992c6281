"""`orderflow sources`: what the Kafka sources do, and the switch to pause and resume one."""

from typing import Annotated, Any
from urllib.parse import quote

import httpx
import typer

from ops import addresses, terminal
from shared import errors

ANSWER_S = 10.0

app = typer.Typer(no_args_is_help=True, help="What the Kafka sources do, and the switch to pause and resume one.")

Names = Annotated[list[str] | None, typer.Argument(help="The sources, as infra/knative/sources.yaml names them.")]
All = Annotated[bool, typer.Option("--all", help="Every source.")]
Url = Annotated[
    str | None, typer.Option(help="The sources' control address.", show_default="SOURCE_CONTROL_URL, else where orderflow up put it")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


@app.command(name="list")
@terminal.failures()
def listed(*, url: Url = None, json: Json = False) -> None:
    """List the sources with their state, why they are in it, and their lag."""
    found = _sources(url)
    if json:
        terminal.as_json(found)
        return
    terminal.table(
        ["source", "state", "lag", "topic", "group", "function", "partitions", "reason", "since"],
        [
            (
                name,
                of.get("state"),
                "unknown" if of.get("lag") is None else of["lag"],
                of.get("topic"),
                of.get("group"),
                of.get("function"),
                len(of.get("partitions") or ()),
                of.get("reason"),
                of.get("since"),
            )
            for name, of in sorted(found.items())
        ],
    )


@app.command()
@terminal.failures()
def pause(
    names: Names = None,
    *,
    every: All = False,
    reason: Annotated[str, typer.Option(help="Why; it is shown by `orderflow sources list` and `orderflow status`.")] = "by hand",
    url: Url = None,
) -> None:
    """Stop deliveries of sources. They keep their group membership, and records wait in the topic until `resume`."""
    _switch("pause", names, every, url, {"reason": reason})


@app.command()
@terminal.failures()
def resume(
    names: Names = None,
    *,
    every: All = False,
    accept_letters: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Let N more letters through before the breaker trips again. Without it, it counts from zero."
        ),
    ] = None,
    url: Url = None,
) -> None:
    """Go on with deliveries of sources that were paused, by hand or by the breaker."""
    _switch("resume", names, every, url, {} if accept_letters is None else {"accept_letters": accept_letters})


def _switch(action: str, names: list[str] | None, every: bool, url: str | None, body: dict[str, Any]) -> None:
    if bool(names) == every:
        raise terminal.usage("name the sources, or say --all")
    there = _sources(url)
    wanted = sorted(there) if every else names or []
    unknown = [name for name in wanted if name not in there]
    if unknown:
        raise terminal.usage(f"there is no source {', '.join(unknown)}; there are {', '.join(sorted(there))}")
    for name in wanted:
        _asked("POST", f"{_address(url)}/sources/{quote(name, safe='')}/{action}", body)
        terminal.note(f"{name}: {action}d")


def _sources(url: str | None) -> dict[str, dict[str, Any]]:
    found = _asked("GET", f"{_address(url)}/sources").get("sources")
    if not isinstance(found, dict):
        raise errors.Unavailable(f"{_address(url)} does not answer as the control of the sources does")
    return found


def _address(url: str | None) -> str:
    return (url or addresses.sources()).rstrip("/")


def _asked(method: str, url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    try:
        response = httpx.request(method, url, json=body, timeout=ANSWER_S)
        found = response.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as exc:
        raise errors.Unavailable(
            f"{url} gave no answer: {exc or type(exc).__name__} (are the sources running? `orderflow status` shows it)"
        ) from exc
    if not response.is_success:
        raise errors.Unavailable(f"{url} answered {response.status_code}: {str(found)[:300]}")
    return found if isinstance(found, dict) else {}
