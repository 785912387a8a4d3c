"""For load balancers and supervisors: is the process alive, and can it do its work."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from api.http.errors import ApiError, error_responses
from api.http.takeover import current_connection
from api.metrics import CONTENT_TYPE
from api.routes.chats import SignedIn
from api.services import services_of
from api.store import StoreError

__all__ = ["router"]

_SOON: Final = {"Retry-After": "10"}

router = APIRouter(tags=["operation"], default_response_class=PlainTextResponse)


@router.get("/healthz", summary="The process answers", responses=error_responses())
async def healthz() -> str:
    """Whether this process serves requests. Looks at nothing else."""
    return "OK"


@router.get("/readyz", summary="It can do more work", responses=error_responses(503))
async def readyz(request: Request) -> str:
    """Whether requests can be served: the store answers, and there is room for one more session."""
    services = services_of(request)
    for full, what in (
        (services.live.full, "sessions and streams"),
        (current_connection().crowd.full, "connections"),
    ):
        if full:
            detail = f"It has as many {what} as it takes."
            raise ApiError(503, "Not ready.", detail, headers=_SOON.copy())
    try:
        await services.store.database.ping()
    except StoreError as error:
        raise ApiError(503, "Not ready.", "The store does not answer.") from error
    return "OK"


@router.get(
    "/metrics",
    summary="Counts for Prometheus",
    responses={
        200: {"content": {CONTENT_TYPE.partition(";")[0]: {"schema": {"type": "string"}}}},
        **error_responses(401, 500),
    },
)
async def metrics(request: Request, _identity: SignedIn) -> Response:
    """Sessions, why they ended, which rules peers broke. For whoever has a token."""
    return Response(services_of(request).metrics.text(), media_type=CONTENT_TYPE)
