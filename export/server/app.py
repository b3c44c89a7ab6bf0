"""A web server for an artifact folder: photos in, labels and scores out.

python app.py ARTIFACT
"""

import argparse
import asyncio
import base64
import contextlib
import dataclasses
import io
import json
import os
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import prometheus_client as prometheus
import uvicorn
from batching import Batcher
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from model import Model, open_model
from pixels import BadImageError, read_pixels
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PAGE = Path(__file__).with_name("index.html")
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclasses.dataclass(frozen=True)
class Settings:
    """What may be set, each by a flag of its name; README.md says what it does."""

    threads: int = CORES
    batch: int = 16
    max_files: int = 16
    max_file_mb: float = 16.0
    max_request_mb: float = 32.0
    max_megapixels: float = 64.0
    max_connections: int = 512
    upload_seconds: float = 30.0
    answer_seconds: float = 30.0


def create_app(model: Model, settings: Settings) -> ASGIApp:
    """Return the application that serves a model."""
    registry = prometheus.CollectorRegistry()
    prometheus.ProcessCollector(registry=registry)
    requests = prometheus.Counter(
        "requests_total", "Answers of /predict", ["status"], registry=registry
    )
    seconds = prometheus.Histogram(
        "request_seconds", "From the first byte of a request to its answer", registry=registry
    )
    sizes = prometheus.Histogram(
        "batch_images",
        "Images that ran together",
        buckets=[2**n for n in range(8)],
        registry=registry,
    )

    def run(images: list[np.ndarray]) -> np.ndarray:
        sizes.observe(len(images))
        return model.run(np.stack(images))

    decoders = ThreadPoolExecutor(settings.threads, "decode")
    batcher = Batcher(run, settings.batch)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with decoders:
            async with batcher:
                yield

    app = FastAPI(title=model.name, lifespan=lifespan, openapi_url=None)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return JSONResponse({"detail": f"{first['loc'][-1]}: {first['msg']}"}, 422)

    @app.get("/")
    async def page() -> FileResponse:
        return FileResponse(PAGE)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {
            "status": "ok",
            "pid": os.getpid(),
            "model": model.name,
            "sha256": model.sha256,
            "input_shape": model.shape,
            "classes": len(model.labels),
        }

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(prometheus.generate_latest(registry), media_type="text/plain")

    def decode(name: str, file: BinaryIO | str) -> np.ndarray:
        """Return an image's pixels; runs in a thread."""
        try:
            if isinstance(file, str):
                # What a browser calls a data URL has a comma, which base64 has not.
                file = io.BytesIO(base64.b64decode(file.rpartition(",")[2], validate=True))
            size = file.seek(0, io.SEEK_END)
            if size > settings.max_file_mb * 1e6:
                raise HTTPException(
                    413,
                    f"{name}: it has {size:,} bytes, where at most "
                    f"{settings.max_file_mb * 1e6:,.0f} are allowed",
                )
            file.seek(0)
            return read_pixels(file, model.shape, int(settings.max_megapixels * 1e6))
        except BadImageError as error:
            raise HTTPException(400, f"{name}: {error}") from None
        except ValueError:
            raise HTTPException(400, f"{name}: it is not base64") from None

    @app.post("/predict")
    async def predict(request: Request, top: int = Query(5, ge=1)) -> dict[str, Any]:
        async with contextlib.AsyncExitStack() as stack:
            async with limited(settings.upload_seconds, 408, "the upload took too long"):
                files = await read_files(request, settings, stack)
            async with limited(settings.answer_seconds, 503, "too busy; try again later"):
                loop = asyncio.get_running_loop()
                jobs = [loop.run_in_executor(decoders, decode, *file) for file in files]
                images = await asyncio.gather(*jobs)
                scores = await asyncio.gather(*map(batcher.submit, images))
        predictions = []
        for (name, _), row in zip(files, scores, strict=True):
            best = np.argsort(-row, kind="stable")[:top]
            found = [{"label": model.labels[i], "score": float(row[i])} for i in best]
            predictions.append({"file": name, "top": found})
        return {"model": model.name, "predictions": predictions}

    async def counted(scope: Scope, receive: Receive, send: Send) -> None:
        start = time.perf_counter()

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                requests.labels(message["status"]).inc()
                seconds.observe(time.perf_counter() - start)
            await send(message)

        is_predict = scope.get("path", "").endswith("/predict")
        await app(scope, receive, sending if is_predict else send)

    return counted


@contextlib.asynccontextmanager
async def limited(seconds: float, status: int, message: str) -> AsyncIterator[None]:
    """Answer with a status where the body takes longer than some seconds."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise HTTPException(status, f"{message} (limit: {seconds:g} s)") from None


async def read_files(
    request: Request, settings: Settings, stack: contextlib.AsyncExitStack
) -> list[tuple[str, BinaryIO | str]]:
    """Return the names and contents of a request's images, as files or as base64.

    Raises:
        HTTPException: too much, too many, none, or no form and no JSON.
    """
    limit, received = settings.max_request_mb * 1e6, 0
    too_large = HTTPException(413, f"the request has more than {limit:,.0f} bytes")
    if int(request.headers.get("content-length", 0)) > limit:
        raise too_large

    async def receive() -> Any:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise too_large
        return message

    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    bounded = Request(request.scope, receive)
    files: list[tuple[str, BinaryIO | str]]
    try:
        if kind == "multipart/form-data":
            form = await stack.enter_async_context(bounded.form(max_files=settings.max_files))
            uploads = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
            files = [(shown(part.filename, i), part.file) for i, part in enumerate(uploads, 1)]
        elif kind == "application/json":
            content = json.loads(await bounded.body())
            images = content.get("images") if isinstance(content, dict) else None
            if not isinstance(images, list) or not all(isinstance(i, str) for i in images):
                raise HTTPException(400, 'the JSON is not {"images": ["BASE64", ...]}')
            if len(images) > settings.max_files:
                raise HTTPException(400, f"too many images, where {settings.max_files} are allowed")
            files = [(f"image {i}", text) for i, text in enumerate(images, 1)]
        else:
            raise HTTPException(415, "send a form with files (multipart/form-data) or JSON")
    except ClientDisconnect:
        raise HTTPException(400, "the upload was broken off") from None
    except (ValueError, RecursionError):
        raise HTTPException(400, "the body is not valid JSON") from None
    if not files:
        raise HTTPException(400, "there is no image in the request; send one or more files")
    return files


def shown(name: str | None, number: int) -> str:
    """Return a file's name as it fits into a sentence."""
    plain = "".join(c for c in name or "" if c.isprintable())[:100]
    return plain or f"image {number}"


def main() -> None:
    """Read the command line, open the model and serve it until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(description="Serve the ONNX file of an artifact folder.")
    parser.add_argument("artifact", metavar="ARTIFACT")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    for field in dataclasses.fields(Settings):
        flag = "--" + field.name.replace("_", "-")
        parser.add_argument(flag, type=type(field.default), default=field.default)
    given = vars(parser.parse_args())
    artifact, host, port = (given.pop(key) for key in ("artifact", "host", "port"))
    if low := [name for name, value in given.items() if value <= 0]:
        parser.error(f"{low[0]} is {given[low[0]]}: it is above 0")
    settings = Settings(**given)
    try:
        model = open_model(artifact, settings.threads)
    except ValueError as error:
        parser.error(str(error))
    uvicorn.run(
        create_app(model, settings),
        host=host,
        port=port,
        limit_concurrency=settings.max_connections,
        timeout_graceful_shutdown=int(settings.answer_seconds) + 1,
        # Longer than a proxy keeps its connections (nginx: 60 s), which else meets closed ones.
        timeout_keep_alive=75,
        access_log=False,
        # With h11 a client that is refused while it still sends may never read why.
        http="httptools",
    )


if __name__ == "__main__":
    main()
