"""What `make terraform-apply` tells Terraform of the local servers: where they are, and which topics and roles they have already.

`orderflow up` makes the same topics and roles. Terraform would fail to make them again, so it is told to take over what is there.
"""

import json
import sys
from typing import Any

from ops import home, roles, terminal, topics_admin
from shared import address, config, database, topics
from shared.config import Settings

GROUP_ROLE = "orderflow"  # which all login roles are members of, where Terraform made them


@terminal.failures()
def main() -> None:
    """Write the variables beside the local state, readable by us alone, and print the file's path."""
    folder = home.folder() / "terraform"
    folder.mkdir(exist_ok=True)
    file = folder / "found.tfvars.json"
    home.write(file, json.dumps(variables(config.load()), indent=2) + "\n", 0o600)
    sys.stdout.write(f"{file}\n")


def variables(settings: Settings) -> dict[str, Any]:
    """The variables of infra/terraform for the servers that the settings name. Raises Unavailable when one does not answer."""
    dsn = settings.postgres_dsn("order")
    to = address.Address.parse(dsn, settings)
    names = {topic.name: named.name for topic, named in zip(topics.read().all(), topics.catalogue(settings).all(), strict=True)}
    at_kafka = topics_admin.Admin(settings).partitions()
    wanted = {role.name: role.password() for role in roles.read()}
    there = set(_roles(dsn, settings))
    return {
        "kafka": {"brokers": settings.kafka_brokers.split(","), "tls": False},
        "kafka_names": _overridden(settings),
        "postgres": {
            "host": to.host, "port": to.port, "database": to.database, "username": to.user,
            "superuser": False, "sslmode": "disable", "create_database": False,
        },
        "postgres_password": to.password,
        "role_passwords": wanted,
        "adopt": {
            "topics": [declared for declared, name in names.items() if name in at_kafka],
            "roles": [name for name in (GROUP_ROLE, *wanted) if name in there],
        },
    }  # fmt: skip


def _overridden(settings: Settings) -> dict[str, str]:
    declared, named = topics.read(), topics.catalogue(settings)
    pairs = [(before.setting, before.name, after.name) for before, after in zip(declared.all(), named.all(), strict=True)]
    pairs += [
        (before.setting, before.group, after.group) for (_, before), (_, after) in zip(declared.consumers(), named.consumers(), strict=True)
    ]
    return {setting: after for setting, before, after in pairs if after != before}


def _roles(dsn: str, settings: Settings) -> list[str]:
    server = database.Database(dsn, settings=settings, application="orderflow-terraform")
    try:
        return [str(name) for (name,) in server.transact(lambda tx: tx.run("SELECT rolname FROM pg_roles"))]
    finally:
        server.close()


if __name__ == "__main__":
    main()
