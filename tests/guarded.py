"""A broker that asks for a password (SASL/SCRAM) and refuses what no rule allows, with the users and rules that infra/terraform makes.

tests/deploy/test_privileges_kafka.py holds the rules against Terraform's. With a certificate the users' listener speaks TLS alone.
"""

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from ops import child, topics_admin
from shared import config, topics
from tests import stack

EVENTS = [topic.name for topic in topics.read().topics if topic.event]
LETTERS = [topic.name for topic in topics.read().dead_letter_topics]
GROUPS = [consumer.group for _, consumer in topics.read().consumers()]
RULES = [
    *(("orderflow-source", "TOPIC", "READ", name, "LITERAL") for name in EVENTS),
    *(("orderflow-source", "GROUP", "READ", name, "LITERAL") for name in GROUPS),
    *(("orderflow-relay", "TOPIC", "WRITE", name, "LITERAL") for name in (*EVENTS, *LETTERS)),
    *(("orderflow-dlq-router", "TOPIC", "WRITE", name, "LITERAL") for name in LETTERS),
    *(("orderflow-command", "TOPIC", "READ", name, "LITERAL") for name in (*EVENTS, *LETTERS)),
    *(("orderflow-command", "GROUP", "DESCRIBE", name, "LITERAL") for name in GROUPS),
    ("orderflow-command", "GROUP", "READ", "orderflow-", "PREFIXED"),
]
USERS = sorted({user for user, *_ in RULES})


@dataclass
class Guarded:
    """The broker as its users reach it; `authority` is the file of who signed its certificate."""

    server: stack.KafkaServer
    brokers: str
    authority: Path | None = None

    def env(self, user: str, password: str = "") -> dict[str, str]:
        """The settings of a process that logs in as `user`."""
        made = {
            "KAFKA_BROKERS": self.brokers, "KAFKA_SECURITY_PROTOCOL": "SASL_SSL" if self.authority else "SASL_PLAINTEXT",
            "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512", "KAFKA_SASL_USERNAME": user, "KAFKA_SASL_PASSWORD": password or f"{user}-password",
        }  # fmt: skip
        return made | ({"KAFKA_SSL_CA_LOCATION": str(self.authority)} if self.authority else {})

    def client(self, user: str, **more: Any) -> dict[str, Any]:
        """The settings of a client that logs in as `user`."""
        named = {name.removeprefix("KAFKA_").lower().replace("_", "."): text for name, text in self.env(user).items()}
        return stack.CLIENT | {"bootstrap.servers": named.pop("brokers")} | named | more


@contextlib.contextmanager
def running(folder: Path, certificate: Path | None = None, authority: Path | None = None) -> Iterator[Guarded]:
    """With every topic, user and rule; the broker's other listener is for its administrator. `certificate` is for localhost."""
    (port,) = child.free_ports(1)
    host, protocol = ("localhost", "SASL_SSL") if certificate else (child.LOOPBACK, "SASL_PLAINTEXT")

    def more(plain: int, controller: int) -> Mapping[str, str]:
        made = {
            "listeners": f"PLAINTEXT://127.0.0.1:{plain},CONTROLLER://127.0.0.1:{controller},USERS://127.0.0.1:{port}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{plain},USERS://{host}:{port}",
            "listener.security.protocol.map": f"CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,USERS:{protocol}",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.users.scram-sha-512.sasl.jaas.config":
                "org.apache.kafka.common.security.scram.ScramLoginModule required;",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
        }  # fmt: skip
        if certificate is not None:
            made |= {"listener.name.users.ssl.keystore.type": "PEM", "listener.name.users.ssl.keystore.location": str(certificate)}
        return made

    server = stack.KafkaServer(folder, more)
    try:
        topics_admin.Admin(config.Settings(kafka_brokers=server.brokers)).create(topics.read().all(), local=True)
        admin = AdminClient(stack.CLIENT | {"bootstrap.servers": server.brokers})
        scram = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        users = [UserScramCredentialUpsertion(user, scram, f"{user}-password".encode()) for user in [*USERS, "orderflow-nobody"]]
        rules = [
            AclBinding(
                ResourceType[kind], name, ResourcePatternType[pattern], f"User:{user}", "*", AclOperation[what], AclPermissionType.ALLOW
            )
            for user, kind, what, name, pattern in RULES
        ]
        for future in (*admin.alter_user_scram_credentials(users).values(), *admin.create_acls(rules).values()):
            future.result(stack.PATIENCE_S)
        yield Guarded(server, f"{host}:{port}", authority)
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)
