"""No service of a Compose file can gain rights, and none but the laptop's database has any.

tests/images looks into the images; tests/deploy at every pod of Knative's and OpenFaaS' overlays (kubernetes.careless) and at stack.yml.
"""

from pathlib import Path

import pytest

from ops import home
from tests.deploy import compose_file

# Its entrypoint begins as root, gives the data folder to its own user and becomes that one.
BEGINS_AS_ROOT = {"postgres"}

files = pytest.mark.parametrize(
    "path",
    [compose_file.ALL, compose_file.KAFKA, compose_file.BESIDE_A_GATEWAY],
    ids=lambda path: str(path.relative_to(home.CHECKOUT)),
)


@files
def test_nothing_can_gain_privileges_and_only_the_database_begins_with_some(path: Path) -> None:
    services = compose_file.services(path)

    assert services
    assert {name: ["no-new-privileges:true"] for name in services} == {name: of.get("security_opt") for name, of in services.items()}
    assert {name for name, of in services.items() if of.get("cap_drop") != ["ALL"]} <= BEGINS_AS_ROOT
    assert [] == [name for name, of in services.items() if of.keys() & {"privileged", "cap_add", "pid", "ipc", "devices", "network_mode"}]


@files
def test_nothing_sees_more_of_the_machine_than_single_files_to_read(path: Path) -> None:
    mounts = [(name, volume) for name, of in compose_file.services(path).items() for volume in of.get("volumes", ())]

    bound = [(name, volume) for name, volume in mounts if volume.startswith((".", "/", "~"))]
    assert [] == [(name, volume) for name, volume in bound if not volume.endswith(":ro") or "." not in Path(volume.split(":")[0]).name]
