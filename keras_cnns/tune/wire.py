"""How the machines of a search talk: JSON over HTTP, with a secret, on addresses that are private.

Nothing that arrives is run or unpickled. The secret keeps out whoever can reach the port; it does
not hide what is said, so that other networks than one's own want a tunnel (ssh, WireGuard).
"""

import hmac
import http.client
import ipaddress
import json
import os
import secrets
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from keras_cnns import runs
from keras_cnns.errors import UsageError

SECRET = "KERAS_CNNS_SECRET"
LARGEST = 2**24  # bytes of a message
SECONDS = 20.0  # for an answer

Message = dict[str, Any]


class Address(NamedTuple):
    """Where a chief listens."""

    host: str
    port: int

    @property
    def is_here(self) -> bool:
        """Whether that is this machine."""
        return ipaddress.ip_address(self.host).is_loopback

    def __str__(self) -> str:
        """Return HOST:PORT."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class NoSecret(UsageError):
    """A worker does not know the chief's secret."""


class Refused(UsageError):
    """The chief does not want this worker, and says why."""


def address(text: str) -> Address:
    """Return HOST:PORT as an address, resolved; only loopback and private ones are allowed.

    Raises:
        UsageError: for anything else.

    >>> str(address("127.0.0.1:7000"))
    '127.0.0.1:7000'
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 <= int(port) < 2**16:
        raise UsageError(f'received the address "{text}"; write HOST:PORT, as 127.0.0.1:7000')
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError:
        raise UsageError(f'"{host}" is no address known here; write HOST:PORT') from None
    place = ipaddress.ip_address(str(found[0][4][0]).partition("%")[0])
    inside = place.is_loopback or (place.is_private and not place.is_unspecified)
    if not inside:
        raise UsageError(
            f"{place} is neither a loopback nor a private address; a search listens on no other: "
            "use one of this network, or a tunnel"
        )
    return Address(str(place), int(port))


def secret(folder: Path, *, make: bool = False) -> str:
    """Return the secret of a search: KERAS_CNNS_SECRET, or what its folder has in "secret".

    Raises:
        NoSecret: where there is none.
    """
    if given := os.environ.get(SECRET):
        return given
    place = folder / "secret"
    if not place.is_file():
        if not make:
            raise NoSecret(
                f"a worker needs the chief's secret: set {SECRET} to what the file secret in the "
                "chief's --out has, or give the same --out"
            )
        with runs.replacing(place) as temporary:
            temporary.touch(mode=0o600)
            temporary.write_text(secrets.token_hex(16) + "\n")
    return place.read_text().strip()


def server(
    place: Address, word: str, answer: Callable[[str, Message], Message]
) -> ThreadingHTTPServer:
    """Return a server, not yet at work, that gives `answer(path, message)` to who has the secret.

    Raises:
        UsageError: where the address cannot be had.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = SECONDS

        def do_POST(self) -> None:
            given = self.headers.get("Authorization", "").encode()
            size = self.headers.get("Content-Length", "")
            if not hmac.compare_digest(given, f"Bearer {word}".encode()):
                return self._reply(403, {"why": f"another secret; set {SECRET} to the chief's"})
            if not size.isdigit() or int(size) > LARGEST:
                return self._reply(413, {"why": "a message too long"})
            try:
                message = json.loads(self.rfile.read(int(size)))
                reply = answer(self.path.strip("/"), message)
            except UsageError as error:
                return self._reply(409, {"why": str(error)})
            except (LookupError, TypeError, ValueError) as error:
                return self._reply(400, {"why": f"{type(error).__name__}: {error}"})
            self._reply(200, reply)

        def _reply(self, status: int, message: Message) -> None:
            body = json.dumps(message).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Leave a worker that has gone away to its lease."""

    try:
        return Server((place.host, place.port), Handler)
    except OSError as error:
        raise UsageError(f"cannot listen on {place}: {error.strerror}; choose another") from None


def ask(place: Address, word: str, path: str, message: Message) -> Message:
    """Return what the chief answers.

    Raises:
        ConnectionError: where it cannot be reached, or does not answer.
        Refused: where it does not want to.
    """
    request = urllib.request.Request(
        f"http://{place}/{path}",
        json.dumps(message).encode(),
        {"Authorization": f"Bearer {word}", "Content-Type": "application/json"},
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=SECONDS) as reply:
            return json.load(reply)
    except urllib.error.HTTPError as error:
        try:
            why = json.load(error)["why"]
        except (OSError, http.client.HTTPException, ValueError, LookupError):
            why = f"status {error.code}"
        raise Refused(f"the chief at {place} refuses: {why}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ConnectionError(f"the chief at {place} does not answer: {error}") from None
