"""Who calls us, and what we show to those whom we call. Extensions provide both.

- A server asks its `Gate` about each request when its headers are here, before anything of
  its body is read. What an authenticator knows it says at once (`recall`); what it has to
  find out is waited for (`ask`), by a bounded number of requests for a bounded time. The
  peers share that number: when it is used up, who has the most gives way.
- Where nobody can say who calls, the caller is told to come again, and not that it may not.
- No text here, and no error, has a credential in it.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Annotated, Literal, Protocol

import msgspec

from k8strace.addresses import host_of
from k8strace.budget import Lease
from k8strace.component import C_co, ComponentID, Config, Context, Extension
from k8strace.errors import RefusedError, UnauthenticatedError
from k8strace.fair_line import FairLine
from k8strace.payload import Origin

log = logging.getLogger(__name__)

Side = Literal["server", "client"]
Metadata = tuple[tuple[str, str], ...]

SERVER = msgspec.Meta(extra={"extension": "server"})
"""Annotates an option that names an extension which says who calls."""

CLIENT = msgspec.Meta(extra={"extension": "client"})
"""Annotates an option that names an extension which says who we are."""

MAX_ASKING = 256  # requests to a server that wait for a verdict, each with a window's bytes
MAX_ASK = 10.0  # seconds for it
CALL_SIZE = 4096  # bytes that a waiting request takes, besides its credential
RETRY_AFTER = 1.0  # seconds after which one that could not be judged comes again


class ServerAuth(Config, frozen=True, kw_only=True):
    """`auth` of a server."""

    authenticator: Annotated[ComponentID, SERVER]


class HTTPServerAuth(ServerAuth, frozen=True, kw_only=True):
    """`request_params` are parameters of a request's URL that count as headers."""

    request_params: tuple[str, ...] = ()


class ClientAuth(Config, frozen=True, kw_only=True):
    """`auth` of a client."""

    authenticator: Annotated[ComponentID, CLIENT]


class Verdict(msgspec.Struct, frozen=True):
    """A caller that may: `subject` is its name, where it has one, in `groups`. Or one that
    may not: `denial` says why, without what it showed."""

    subject: str | None = None
    denial: str | None = None
    groups: tuple[str, ...] = ()


NOBODY = Verdict()
"""A caller that was not asked who it is."""


class ServerAuthenticator(Protocol):
    """Says who calls, by what the header `header` (a name in lower case) has.

    `challenge` tells a refused client over HTTP how to say who it is (WWW-Authenticate).
    """

    header: str
    challenge: str

    def recall(self, credential: bytes) -> Verdict | None:
        """The verdict, where it is known without waiting. Never raises."""

    async def ask(self, credential: bytes, peer: str = "") -> Verdict:
        """The verdict; raises RefusedError where nobody can tell now.

        `peer` is who shows it (`Origin.peer`). Who is cancelled waits no more.
        """


class ClientAuthenticator(Protocol):
    """Says who we are. `needs_tls`: what it says is a secret that must not be overheard.

    `needs_origin`: what it says depends on whose request is passed on.
    """

    @property
    def needs_tls(self) -> bool: ...

    @property
    def needs_origin(self) -> bool: ...

    @property
    def reads_metadata(self) -> tuple[str, ...]:
        """The names of requests' metadata that it passes on."""

    async def metadata(self, headers: Metadata, origin: Origin | None) -> Metadata:
        """A request's metadata, made of `headers`; the same tuple where nothing changes.

        Raises RefusedError where it is not known now.
        """


class AuthConfig(Config, frozen=True, kw_only=True):
    """The root of authenticators' configurations."""

    @property
    def sides(self) -> tuple[Side, ...]:
        """What it can be as it is configured."""
        raise NotImplementedError


class Authenticator(Extension[C_co]):
    """An extension that other components name in `auth`.

    It is asked for the sides alone that its configuration says it has.
    """

    @property
    def reads_metadata(self) -> tuple[str, ...]:
        return ()

    def server(self) -> ServerAuthenticator:
        raise NotImplementedError

    def client(self) -> ClientAuthenticator:
        raise NotImplementedError


def server_authenticator(
    auth: ServerAuth | None, context: Context
) -> ServerAuthenticator | None:
    """What `auth` names. Raises ValueError where there is no such extension."""
    return None if auth is None else _named(auth.authenticator, "server", context).server()


def client_authenticator(
    auth: ClientAuth | None, context: Context
) -> ClientAuthenticator | None:
    """What `auth` names. Raises ValueError where there is no such extension."""
    return None if auth is None else _named(auth.authenticator, "client", context).client()


def _named(id_: ComponentID, side: Side, context: Context) -> Authenticator[AuthConfig]:
    found = context.extensions.get(id_)
    if not isinstance(found, Authenticator) or side not in found.config.sides:
        raise ValueError(f"auth::authenticator: {id_} is no {side} authenticator")
    return found


class Leases(Protocol):
    """A budget, or who is asked in front of it."""

    def lease(self, amount: int, peer: str) -> Lease | None: ...

    def refusal(self, amount: int, peer: str) -> RefusedError: ...


class _Call:
    """A request that waits for its verdict."""

    def __init__(self, peer: str, until: float) -> None:
        self.peer = peer
        self.timeout = asyncio.timeout_at(until)
        self.gives_way = False


class Gate:
    """Judges the callers of one server. What they show while they wait is leased, where
    there is a `budget`."""

    def __init__(
        self, authenticator: ServerAuthenticator, budget: Leases | None = None
    ) -> None:
        self.header = authenticator.header
        self.challenge = authenticator.challenge
        self._authenticator = authenticator
        self._budget = budget
        self._nothing = Verdict(
            denial=f"there is no header {self.header!r}, or nothing in it"
        )
        self._asking: FairLine[_Call] = FairLine()

    def recall(self, credential: bytes | None) -> Verdict | None:
        """The verdict where it is known; else `ask`."""
        return self._authenticator.recall(credential) if credential else self._nothing

    async def ask(
        self, credential: bytes, deadline: float | None = None, peer: str = ""
    ) -> Verdict:
        """The verdict for `peer`, until the loop's time `deadline`; raises RefusedError."""
        until = asyncio.get_running_loop().time() + MAX_ASK
        self._make_room(peer)
        lease = self._lease(len(credential) + CALL_SIZE, peer)
        call = _Call(peer, min(until, deadline or until))
        self._asking.add(peer, call)
        try:
            async with call.timeout:
                return await self._authenticator.ask(credential, peer)
        except TimeoutError:
            if call.gives_way:
                raise _too_many() from None
            raise RefusedError(
                "the caller could not be authenticated in time", RETRY_AFTER
            ) from None
        except RefusedError:
            raise
        except Exception as error:
            log.exception("an authenticator failed")
            raise RefusedError(
                "the caller could not be authenticated", RETRY_AFTER
            ) from error
        finally:
            self._asking.remove(peer, call)
            del lease

    async def admit(
        self, credential: bytes | None, deadline: float | None = None, peer: str = ""
    ) -> Verdict:
        """Who the caller is; raises UnauthenticatedError or RefusedError."""
        verdict = self.recall(credential)
        if verdict is None:
            verdict = await self.ask(credential or b"", deadline, peer)
        if verdict.denial is not None:
            raise UnauthenticatedError(verdict.denial)
        return verdict

    def _make_room(self, peer: str) -> None:
        """Have another request give way where too many wait. Raises RefusedError."""
        while len(self._asking) >= MAX_ASKING:
            call = self._asking.one_too_many(peer)
            if call is None:
                raise _too_many()
            call.gives_way = True
            # It may have an answer already, which its task has not seen yet.
            with suppress(RuntimeError):
                call.timeout.reschedule(0)
            self._asking.remove(call.peer, call)

    def _lease(self, amount: int, peer: str) -> Lease | None:
        """Raises RefusedError where there is no room."""
        budget = self._budget
        if budget is None:
            return None
        lease = budget.lease(amount, host_of(peer))
        if lease is None:
            raise budget.refusal(amount, host_of(peer))
        return lease


def _too_many() -> RefusedError:
    return RefusedError(
        "too many requests wait for their callers to be authenticated", RETRY_AFTER
    )
