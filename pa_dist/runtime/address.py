"""Where the cluster is: an address is tried before Ray is given it, which waits minutes where nobody answers."""

import os
import re
import socket
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import ray

from pa_dist.errors import ResourceError, first_line

# Together under half a minute.
CONNECT_SECONDS = 5.0
GREETING_SECONDS = 8.0
_HEAD = "host:port of its head, whose port is 6379 unless told"


class Address(NamedTuple):
    """An address as it was given, and where: a config's key, or the environment."""

    text: str
    source: str

    def refuse(self, why: str) -> NoReturn:
        """Raise `ResourceError`, naming who gave the address."""
        raise ResourceError(f"{self.source}: no cluster at {self.text!r}: {why}")


def given(address: str | None) -> Address | None:
    """The address of the config, else of the environment; None where Ray is to be started here."""
    surrounding = os.environ.get("RAY_ADDRESS") or None
    found = Address(address, "ray.address") if address else None
    if surrounding is not None and (found is None or found.text == "auto"):  # as Ray has it
        found = Address(surrounding, "RAY_ADDRESS, which the environment sets")
    return None if found is None or found.text == "local" else found


def try_out(address: Address) -> None:
    """Find out within half a minute whether a cluster answers.

    Raises:
      ResourceError: none does; it says where the address came from.
    """
    scheme, between, place = address.text.rpartition("://")
    if scheme in ("http", "https"):
        address.refuse(f"this is a dashboard's, for `ray job submit`; a command wants {_HEAD}")
    if between and scheme != "ray":
        address.refuse(f"{scheme}:// is no scheme of a cluster; a command wants {_HEAD}")
    if address.text == "auto":
        place = _running(address)
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.%]+\]|[^\s:/@?#]+):([0-9]{1,5})", place)
    if found is None or not 0 < int(found[2]) < 65536:
        address.refuse(f"it is not {_HEAD}")
    _listens(address, found[1].strip("[]"), int(found[2]))
    _greets(address, place)
    if scheme != "ray":
        _is_head(address, place)


def _running(address: Address) -> str:
    from ray._private import services

    try:
        return str(services.canonicalize_bootstrap_address_or_die("auto"))
    except (ConnectionError, ValueError, RuntimeError):
        address.refuse("none was started on this machine; `ray start --head` does, or leave the address out")


def _listens(address: Address, host: str, port: int) -> None:
    try:
        within(2 * CONNECT_SECONDS, lambda: socket.create_connection((host, port), CONNECT_SECONDS).close())
    except TimeoutError:
        address.refuse("nothing answers there; is it up, and can this machine reach it?")
    except UnicodeError:  # of Python, before it asks anybody
        address.refuse("there is no host of that name")
    except OSError as error:
        address.refuse(f"{error.strerror or first_line(error)}; is it up, and is this its port?")


def _greets(address: Address, place: str) -> None:
    """Whether what listens speaks as Ray does."""
    import grpc

    if os.environ.get("RAY_USE_TLS", "0").lower() not in ("0", "false", ""):
        return
    with grpc.insecure_channel(place) as channel:
        try:
            grpc.channel_ready_future(channel).result(GREETING_SECONDS)
        except grpc.FutureTimeoutError:
            address.refuse(f"what listens there is not Ray; a command wants {_HEAD}")


def _is_head(address: Address, place: str) -> None:
    raylet: Any = ray._raylet
    try:
        within(GREETING_SECONDS, lambda: raylet.GcsClient(address=place))
    except TimeoutError:
        address.refuse(f"what listens there does not answer as a head does; a command wants {_HEAD}")
    except ray.exceptions.RayError as error:
        address.refuse(f"it does not answer as a head does ({first_line(error)}); a command wants {_HEAD}")


def within(seconds: float, call: Callable[[], object]) -> None:
    """Call what may never return. Raises what it does, or `TimeoutError`."""
    raised: list[Exception] = []

    def run() -> None:
        try:
            call()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer within {seconds:g} s")
    if raised:
        raise raised[0]
