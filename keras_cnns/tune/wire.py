"""How the machines of a search talk: JSON by gRPC, with a secret, on addresses that are private.

Nothing that arrives is run or unpickled. The secret keeps out whoever can reach the port; it does
not hide what is said, so that other networks than one's own want a tunnel (ssh, WireGuard).
"""

import hmac
import ipaddress
import json
import os
import secrets
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from grpc import StatusCode as Code

from keras_cnns import runs
from keras_cnns.errors import UsageError

SECRET = "KERAS_CNNS_SECRET"
LARGEST = 2**24  # bytes of a message
SECONDS = 20.0  # for an answer
MANY = 64  # questions at a time; a proposal may make others wait
SERVICE = "keras_cnns.Search"
# Loopback, RFC 1918 and 4193, of one link, and RFC 6598, of tunnels such as Tailscale's. Not IPv6's
# of one link, which mean nothing without the name of a network card.
PRIVATE = tuple(
    ipaddress.ip_network(text)
    for text in (
        *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"),
        *("::1/128", "fc00::/7", "100.64.0.0/10"),
    )
)
TOPICS = ("hello", "take", "beat", "finish")
BAD_WORDS = (UsageError, LookupError, TypeError, ValueError)  # what a question may raise
REFUSALS = (
    Code.UNAUTHENTICATED,
    Code.FAILED_PRECONDITION,
    Code.INVALID_ARGUMENT,
    Code.RESOURCE_EXHAUSTED,
    Code.UNIMPLEMENTED,
)

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

    A tunnel's are private too.

    Raises:
        UsageError: for anything else.

    >>> str(address("127.0.0.1:7000"))
    '127.0.0.1:7000'
    """
    host, _, port = text.rpartition(":")
    number = int(port) if port.isascii() and port.isdigit() and len(port) < 6 else -1
    if not host or not 0 <= number < 2**16:
        raise UsageError(f'received the address "{text}"; write HOST:PORT, as 127.0.0.1:7000')
    try:
        found = socket.getaddrinfo(host.strip("[]"), number, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # the latter of a part that is empty or too long
        raise UsageError(f'"{host}" is no address known here; write HOST:PORT') from None
    place = ipaddress.ip_address(str(found[0][4][0]).partition("%")[0])
    place = getattr(place, "ipv4_mapped", None) or place
    if not any(place in network for network in PRIVATE):
        raise UsageError(
            f"{place} is neither a loopback nor a private address; a search listens on no other: "
            "use one of this network, or a tunnel"
        )
    return Address(str(place), number)


def secret(folder: Path, *, make: bool = False) -> str:
    """Return the secret of a search: KERAS_CNNS_SECRET, or what its folder has in "secret".

    Raises:
        NoSecret: where there is none.
        UsageError: where it cannot be sent.
    """
    if given := given_secret():
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
    return _sendable(place.read_text(encoding="utf-8", errors="replace"), str(place))


def given_secret() -> str | None:
    """Return KERAS_CNNS_SECRET, None where it is not set.

    Raises:
        UsageError: where it cannot be sent.
    """
    given = os.environ.get(SECRET)
    return _sendable(given, SECRET) if given else None


def _sendable(text: str, whence: str) -> str:
    """Return a secret without the spaces around it, if the header of a question may have it."""
    word = text.strip()
    if not word or not word.isascii() or not word.isprintable():
        raise UsageError(
            f"{whence} has no secret of printable ASCII characters in one line; write one there, "
            "the same for all machines of the search"
        )
    return word


@contextmanager
def server(place: Address, word: str, answer: Callable[[str, Message], Message]) -> Iterator[int]:
    """Give `answer(topic, message)` to whoever has the secret, for as long as the block lasts.

    Yields:
        The port, which is a free one where the address has 0.

    Raises:
        UsageError: where the address cannot be had.
    """

    def handler(topic: str) -> Any:
        def reply(content: bytes, context: Any) -> Any:
            given = str(dict(context.invocation_metadata()).get("authorization", ""))
            if not hmac.compare_digest(given.encode(), _bearer(word).encode()):
                context.abort(Code.UNAUTHENTICATED, f"another secret; set {SECRET} to the chief's")
            try:
                return json.dumps(answer(topic, json.loads(content))).encode()
            except UsageError as error:
                code, why = Code.FAILED_PRECONDITION, str(error)
            except BAD_WORDS as error:
                code, why = Code.INVALID_ARGUMENT, f"{type(error).__name__}: {error}"
            except Exception as error:  # the chief's own trouble, which it will tell of
                code, why = Code.UNKNOWN, type(error).__name__
            return context.abort(code, why)  # it raises

        return grpc.unary_unary_rpc_method_handler(reply)

    options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", LARGEST)]
    served = grpc.server(ThreadPoolExecutor(MANY), options=options)
    handlers = {topic: handler(topic) for topic in TOPICS}
    served.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    try:
        port = served.add_insecure_port(str(place))
    except RuntimeError:
        raise UsageError(f"cannot listen on {place}; choose another address") from None
    served.start()
    try:
        yield port
    finally:
        served.stop(1.0).wait()  # what was asked before is answered


def ask(place: Address, word: str, topic: str, message: Message) -> Message:
    """Return what the chief answers.

    Raises:
        ConnectionError: where it cannot be reached, or does not answer.
        Refused: where it does not want to.
    """
    # A proxy has no business here, and each question looks for the chief anew.
    options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(str(place), options) as channel:
        call = channel.unary_unary(f"/{SERVICE}/{topic}")
        try:
            reply = call(
                json.dumps(message).encode(),
                timeout=SECONDS,
                metadata=[("authorization", _bearer(word))],
            )
            return json.loads(reply)
        except grpc.RpcError as error:
            if error.code() in REFUSALS:
                raise Refused(f"the chief at {place} refuses: {error.details()}") from None
            why = f"{error.code().name}: {error.details()}"
            raise ConnectionError(f"the chief at {place} does not answer: {why}") from None


def _bearer(word: str) -> str:
    return f"Bearer {word}"
