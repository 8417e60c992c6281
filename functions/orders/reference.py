"""What the OpenAPI page says beyond the code, and a /docs that can be read without the internet."""

import html
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from starlette.requests import Request
from starlette.responses import HTMLResponse

from functions.orders import idempotency, models
from shared import problem

_SCHEMAS = "#/components/schemas/"
_IN: JsonSchemaMode = "validation"
_OUT: JsonSchemaMode = "serialization"
_RETRY_AFTER = {"Retry-After": {"description": "seconds after which to try again", "schema": {"type": "integer", "minimum": 1}}}


def _problem(description: str, headers: dict[str, Any] | None = None) -> dict[str, Any]:
    content = {problem.MEDIA_TYPE: {"schema": {"$ref": f"{_SCHEMAS}Problem"}}}
    return {"description": description, "content": content} | ({"headers": headers} if headers else {})


def _answer(model: str, description: str, headers: dict[str, Any] | None = None) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"{_SCHEMAS}{model}"}}}
    return {"description": description, "content": content} | ({"headers": headers} if headers else {})


_LATER = {
    429: _problem("More requests arrive than are taken here.", _RETRY_AFTER),
    503: _problem("The database is away.", _RETRY_AFTER),
}
_PLACED = {
    "Location": {"description": "the order's address", "schema": {"type": "string"}},
    "Idempotency-Replayed": {"description": "there when this is the first answer again", "schema": {"type": "string", "enum": ["true"]}},
}

PLACE: dict[str, Any] = {
    "status_code": 201,
    "responses": {
        201: _answer("Order", "The order is placed, or was placed before with this key.", _PLACED),
        400: _problem("The body is no JSON, or the Idempotency-Key is malformed."),
        409: _problem("An order with this key is still being worked on.", _RETRY_AFTER),
        413: _problem(f"The body is larger than {models.BODY_BYTES_MAX} bytes."),
        415: _problem("The body is not application/json."),
        422: _problem("A field is wrong, or the key was used with another body."),
    }
    | _LATER,
    "openapi_extra": {
        "requestBody": {"required": True, "content": {"application/json": {"schema": {"$ref": f"{_SCHEMAS}NewOrder"}}}},
        "parameters": [
            {
                "name": idempotency.HEADER,
                "in": "header",
                "required": False,
                "description": "Visible ASCII, new for each order. The order's answer is remembered with it for a day.",
                "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
            }
        ],
    },
}
FIND: dict[str, Any] = {"responses": {200: _answer("Order", "The order."), 404: _problem("There is no such order.")} | _LATER}
LIST: dict[str, Any] = {"responses": {200: _answer("Page", "One page."), 422: _problem("A parameter is wrong.")} | _LATER}


def install(app: FastAPI) -> None:
    """Complete the OpenAPI document with the models, and add /docs."""
    routes_only = app.openapi

    def complete() -> dict[str, Any]:
        document = routes_only()
        shown = ((models.NewOrder, _IN), (models.Order, _OUT), (models.Page, _OUT), (models.Problem, _OUT))
        _, schemas = models_json_schema(shown, ref_template=_SCHEMAS + "{model}")
        document.setdefault("components", {})["schemas"] = schemas["$defs"]  # FastAPI's own models of errors are none of ours
        document["paths"]["/orders/{order_id}"]["get"]["responses"].pop("422", None)  # an id that cannot be is just not there
        return document

    app.openapi = complete  # type: ignore[method-assign]  # the way FastAPI documents for extending it

    @app.get("/docs", include_in_schema=False)
    async def docs(_request: Request) -> HTMLResponse:
        page = get_swagger_ui_html(openapi_url="openapi.json", title=app.title).body
        assert isinstance(page, bytes)  # noqa: S101  for the type checker
        # Swagger UI takes the place of the plain text; where its files cannot be loaded, the text stays.
        return HTMLResponse(page.replace(b'<div id="swagger-ui">', b'<div id="swagger-ui">' + _plain(app.openapi()).encode(), 1))


def _plain(document: dict[str, Any]) -> str:
    """The document as simple HTML."""
    parts = [f"<h1>{html.escape(document['info']['title'])}</h1><p>{html.escape(document['info']['summary'])}</p>"]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts.append(f"<h2>{method.upper()} {html.escape(path)}</h2><p>{html.escape(operation.get('description', ''))}</p>")
            named = [f"{each['name']} ({each['in']}): {each.get('description', '')}" for each in operation.get("parameters", ())]
            named += [f"{status}: {answer['description']}" for status, answer in operation["responses"].items()]
            parts.append("<ul>" + "".join(f"<li>{html.escape(each)}</li>" for each in named) + "</ul>")
    parts.append('<p>Schemas, with every bound: <a href="openapi.json">openapi.json</a></p>')
    return "".join(parts)
