"""For load balancers and supervisors: is the process alive, and can it do its work."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from api.http.errors import ApiError, error_responses
from api.metrics import CONTENT_TYPE
from api.routes.chats import SignedIn
from api.services import services_of
from api.store import StoreError

__all__ = ["router"]

router = APIRouter(tags=["operation"], default_response_class=PlainTextResponse)


@router.get("/healthz", summary="The process answers", responses=error_responses())
async def healthz() -> str:
    """Whether this process serves requests. Looks at nothing else."""
    return "OK"


@router.get("/readyz", summary="The store answers", responses=error_responses(503))
async def readyz(request: Request) -> str:
    """Whether requests can be served: the store answers."""
    try:
        await services_of(request).store.database.ping()
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
