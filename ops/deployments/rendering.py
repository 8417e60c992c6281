"""The deployment files that say the same of each function: made from templates in infra/templates, and held to them."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import jinja2

from ops import home, manifests, roles
from ops.deployments import functions
from shared import errors, events, topics

TEMPLATES = Path("infra") / "templates"
# The file in the checkout: its template.
FILES: Mapping[str, str] = MappingProxyType(
    {
        "contracts/asyncapi.yaml": "asyncapi.yaml.j2",
        "stack.yml": "stack.yml.j2",
        "infra/knative/base/functions.yaml": "knative-functions.yaml.j2",
        "infra/knative/delivery/knative/sources.yaml": "knative-sources.yaml.j2",
        "infra/openfaas/base/sources.yaml": "knative-sources.yaml.j2",
        "infra/knative/overlays/dev/secrets.yaml": "knative-secrets.yaml.j2",
        "docker-compose.yml": "docker-compose.yml.j2",
        "docker-compose.kafka.yml": "docker-compose.kafka.yml.j2",
    }
)


def rendered(checkout: Path = home.CHECKOUT) -> dict[str, str]:
    """Every file by its path, as it is to be. Raises ConfigError."""
    # YAML, not HTML: `quoted` is what makes a text safe here.
    environment = jinja2.Environment(  # noqa: S701
        loader=jinja2.FileSystemLoader(checkout / TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["quoted"] = lambda text: json.dumps(str(text), ensure_ascii=False)  # JSON's strings are YAML's too
    environment.filters["camel"] = _camel
    environment.filters["sentence"] = lambda text: text.strip().partition("\n")[0]
    known = {
        "functions": functions.functions(checkout),
        "events": list(events.known().values()),
        "catalogue": topics.read(checkout / "contracts" / "topics.yaml"),
        "roles": roles.read(checkout),
        "sources": (checkout / manifests.SOURCES).read_text(encoding="utf-8"),
    }
    try:
        return {path: _head(template) + environment.get_template(template).render(known) for path, template in FILES.items()}
    except jinja2.TemplateError as exc:
        where = f"{exc.name}, line {exc.lineno}: " if isinstance(exc, jinja2.TemplateSyntaxError) else ""
        raise errors.ConfigError([f"{TEMPLATES}: {where}{exc}"]) from exc


def faults(checkout: Path = home.CHECKOUT) -> list[str]:
    """How the files of `checkout` differ from what they are to be, one sentence each."""
    try:
        wanted = rendered(checkout)
    except errors.ConfigError as exc:
        return list(exc.faults)
    found = {path: (checkout / path).read_text(encoding="utf-8") for path in wanted if (checkout / path).is_file()}
    return [
        f"{path} {'is not what its template makes' if path in found else 'is missing'}; `orderflow contracts generate` renews it"
        for path, text in wanted.items()
        if found.get(path) != text
    ]


def _camel(name: str) -> str:
    first, *rest = re.split(r"[._-]", name)
    return "".join([first[:1].lower() + first[1:], *(part.capitalize() for part in rest)])


def _head(template: str) -> str:
    return f"# Made by `orderflow contracts generate` from {TEMPLATES}/{template} and contracts/topics.yaml: change those, not this.\n"
