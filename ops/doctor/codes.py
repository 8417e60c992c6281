"""Everything that doctor can find. docs/doctor.md shows this list, and a test holds the two together."""

from ops.doctor.codes_files import SETTINGS, SOURCES
from ops.doctor.codes_kafka import KAFKA
from ops.doctor.codes_postgres import CLOCKS, POSTGRES
from ops.doctor.findings import Code

PARTS = {"Settings": SETTINGS, "Sources and gateway": SOURCES, "Kafka": KAFKA, "PostgreSQL": POSTGRES, "Clocks": CLOCKS}
CODES: dict[str, Code] = {name: code for part in PARTS.values() for name, code in part.items()}
