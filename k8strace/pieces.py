"""Pieces of a payload, within limits, each made when its turn has come.

Whole requests stay together as far as they fit; one that is over a limit by itself is cut.
What a piece has to copy is in the budget before it is made, so that a payload which is
large, or whose resources are and are repeated in each piece, takes no more than it and one
piece of it.
"""

from __future__ import annotations

from math import inf

from k8strace._fastpath import Cutting
from k8strace.budget import Lease
from k8strace.passes import Loan, Spare, step
from k8strace.payload import Payload, Requests

COPIED = 64 * 1024  # bytes that are copied without asking for room


class Pieces:
    """Cuts `payload` from the front into pieces of at most as many spans, bytes, requests.

    0 is no limit. A single span over `max_bytes` makes a piece of its own; see
    `_fastpath.split` for resources that are too large to be repeated so often.

    After `next`, the piece has requests `first` to `end` of the payload; `is_whole` says
    that the last of them ends with it, too. `left` spans are in no piece yet.
    """

    def __init__(
        self,
        payload: Payload,
        spare: Spare,
        max_spans: int = 0,
        max_bytes: int = 0,
        max_requests: int = 0,
    ) -> None:
        self._limits = max_spans, max_bytes
        self._max_requests = max_requests
        self._spare = spare
        self._requests = Requests(payload)
        self._request: Payload | None = None  # what is being cut
        self._request_left = 0  # of its spans
        self._cutting: Cutting | None = None
        self._heads: Lease | None = None  # what the cutting keeps from piece to piece
        self._loan = Loan(None, None)  # for the piece
        self._whole = Loan(None, None)  # for the request that is being cut
        self.first = self.end = 0
        self.is_whole = True
        self.left = payload.spans

    async def next(self, until: float = inf) -> Payload | None:
        """The next piece, None where there is none. The one before must be done with.

        Raises MalformedPayloadError, after which `unreadable` is to be called; RefusedError
        when there is no room by the loop's time `until`. After both it can be asked again.
        """
        self._let_go()
        if self._request is None:
            if not self._requests.left:
                return None
            piece = await self._take(until)
            if piece.fits(*self._limits) or piece.spans <= 1:
                self.left -= piece.spans
                return piece
            self._request, self.is_whole = piece, False
            self._request_left = piece.spans
            self._whole, self._loan = self._loan, self._whole
        piece = await self._cut(until)
        self.left -= piece.spans
        self._request_left -= piece.spans
        return piece

    def unreadable(self) -> Payload:
        """The rest of the request that could not be read: it will be in no piece.

        `next` goes on behind it.
        """
        rest = self._rest_of_request()
        self.left -= rest.spans
        self.is_whole = True
        self._request = self._cutting = self._heads = None
        return rest

    def rest(self) -> list[Payload]:
        """What is in no piece yet, as nobody will ask for it any more."""
        rest = []
        if self._request is not None:
            rest.append(self._rest_of_request())
        if self._requests.left:
            rest.append(self._requests.take(self._requests.left))
        self.left = 0
        self.close()
        return rest

    def close(self) -> None:
        """Say that the last piece is done with, and that there will be no other."""
        self._request = self._cutting = self._heads = None
        self._let_go()

    def _rest_of_request(self) -> Payload:
        """The request that is being cut, with the number of spans that are in no piece."""
        request = self._request
        assert request is not None
        return Payload(request.chunks, self._request_left, request.size, request.origin)

    def _let_go(self) -> None:
        """End the loans for what is done with."""
        self._loan.end()
        if self._request is None:
            self._whole.end()

    async def _take(self, until: float) -> Payload:
        requests = self._requests
        count = requests.within(*self._limits)
        if self._max_requests:
            count = min(count, self._max_requests)
        copied = requests.copied(count)
        if copied > COPIED:
            self._loan = await self._spare.lend(copied, requests.payload, until)
        piece = requests.take(count, self._loan.lease)
        self.first, self.end = requests.taken - count, requests.taken
        self.is_whole = True
        return piece

    async def _cut(self, until: float) -> Payload:
        request, cutting = self._request, self._cutting
        assert request is not None
        if cutting is None:
            cutting = self._cutting = Cutting(request.chunks, *self._limits)
        if not cutting.has_found:
            await step(cutting)
        held = 0 if self._heads is None else self._heads.size
        loan = self._loan = await self._spare.lend(
            cutting.need - held, request, until, self._whole, held
        )
        await step(cutting)
        chunk = cutting.take()
        if loan.lease is not None:
            heads = cutting.need - len(chunk)
            loan.lease.shrink_to(len(chunk))
            if self._heads is None:
                self._heads = Lease(loan.lease.budget, heads, loan.lease.peer, 0)
            else:
                self._heads.grow(heads - held)
        self.is_whole = cutting.is_done
        if cutting.is_done:
            self._request = self._cutting = self._heads = None
        return Payload(
            (chunk,),
            cutting.spans,
            len(chunk),
            request.origin,
            lease=loan.lease,
            wait_until=request.wait_until,
        )
