"""The API in OpenAPI's words."""

from __future__ import annotations

from phidet.serve.configuration import ServerSettings


def describe(settings: ServerSettings) -> dict[str, object]:
    return {"openapi": "3.1.0", "info": {"title": "phidet", "version": "1"}, "paths": {}}
