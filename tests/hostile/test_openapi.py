"""The orders API by its own OpenAPI document: what it says of itself is true."""

from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.core.failures import FailureGroup
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi import checks

from tests import stack
from tests.hostile.conftest import StartTarget

OPERATIONS = {"POST /orders", "GET /orders", "GET /orders/{order_id}"}
# A request that fits the schema may be refused: a sum that is too large, a key that is used again, an order that is not there.
LEFT_OUT = [checks.positive_data_acceptance]


@pytest.fixture(scope="module")
def operations(start_target: StartTarget) -> dict[str, Any]:
    document = schemathesis.openapi.from_url(f"{start_target('orders').process.url}/openapi.json")
    return {operation.label: operation for operation in (found.ok() for found in document.get_all_operations())}


def test_every_operation_is_tried(operations: dict[str, Any]) -> None:
    assert operations.keys() == OPERATIONS


def test_a_status_that_is_not_documented_would_be_found(start_target: StartTarget) -> None:
    url = start_target("orders").process.url
    document = httpx.get(f"{url}/openapi.json", timeout=stack.PATIENCE_S).json()
    del document["paths"]["/orders"]["get"]["responses"]["422"]
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=url)
    with pytest.raises(FailureGroup, match="Undocumented status code"):
        schema["/orders"]["GET"].Case(query={"user_id": ""}).call_and_validate()


TRIED = [(label, GenerationMode.POSITIVE) for label in sorted(OPERATIONS)]
TRIED += [(label, GenerationMode.NEGATIVE) for label in ("POST /orders", "GET /orders")]  # any text may be an order's id


@pytest.mark.parametrize(("label", "mode"), TRIED)
def test_every_answer_is_one_that_is_documented(operations: dict[str, Any], label: str, mode: GenerationMode) -> None:
    """No 500, no status, header or body that the document does not know; and what does not fit it is refused."""

    @settings(max_examples=30, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def tried(data: st.DataObject) -> None:
        data.draw(operations[label].as_strategy(generation_mode=mode)).call_and_validate(excluded_checks=LEFT_OUT)

    tried()
