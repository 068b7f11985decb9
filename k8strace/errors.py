"""Errors say whose fault it is and whether to try again.

`grpc/status.py` maps them to gRPC status codes and HTTP statuses, in one table.
"""

from __future__ import annotations

from typing import Literal

Reason = Literal[
    "corrupt",
    "decode_error",
    "internal_error",
    "invalid_id",
    "invalid_text",
    "msg_too_large",
    "orphaned",
    "partial_success",
    "permanent_error",
    "queue_full",
    "rate_limited",
    "retry_exhausted",
    "sampling_error",
    "shutdown",
    "too_deep",
    "worker_died",
]
"""Why spans are lost; docs/drops.md explains each. There are no others: the type checker
refuses them."""


FAULT_RETRY_AFTER = 1.0  # seconds: for what the machine lacks, which nobody can foresee


class K8sTraceError(Exception):
    """The root of all errors that k8strace raises on purpose."""


class ConfigError(K8sTraceError):
    """A configuration that cannot run; `problems` has one line for each mistake."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class OptionError(ConfigError):
    """An option that cannot be used, found when what it configures is started.

    `path` is the option's, below what is started; `text` says what is wrong with it.
    """

    def __init__(self, path: str, text: str) -> None:
        super().__init__([f"{path}: {text}"])
        self.path = path
        self.text = text

    def below(self, parent: str) -> OptionError:
        """The same, as seen from where `parent` is the path of what was started."""
        return OptionError(f"{parent}::{self.path}", self.text)


class MalformedPayloadError(K8sTraceError, ValueError):
    """Bytes that are no ExportTraceServiceRequest: the sender's fault, never retried.

    `offset` counts bytes from the start of the request (of all its chunks together).
    """

    def __init__(self, reason: str, offset: int) -> None:
        super().__init__(f"{reason} at byte {offset}")
        self.reason = reason
        self.offset = offset


class UnauthenticatedError(K8sTraceError):
    """Nobody we know: the caller has not shown who it is. The text has nothing secret."""


class RefusedError(K8sTraceError):
    """Not now: nothing was taken, the same payload may come again after `retry_after` s.

    `retry_after` is None where nobody said how long to wait. `reason` is the label under
    which spans are dropped when later attempts are refused, too, if there is a better one
    than `retry_exhausted`.
    """

    def __init__(
        self,
        message: str,
        retry_after: float | None = None,
        reason: Reason | None = None,
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.reason = reason


class RejectedError(K8sTraceError):
    """Never: this payload will not be taken, however often it comes.

    `reason` is the label under which its spans are counted as dropped or rejected.
    `about_data` is False where the refusal is not about the payload's content (a wrong
    token, an unknown method), so that sending its parts one by one cannot help.
    """

    def __init__(
        self,
        message: str,
        reason: Reason = "permanent_error",
        *,
        about_data: bool = True,
    ) -> None:
        super().__init__(message)
        self.reason: Reason = reason
        self.about_data = about_data


def is_passing(error: BaseException) -> bool:
    """Whether a fault that nobody expected is the machine's, and passes.

    That is a lack of memory, descriptors, threads or space, and whatever else the system
    refuses: never the data's fault, so that the same request is worth another attempt.
    """
    if isinstance(error, RuntimeError):
        return "can't start new thread" in str(error)
    return isinstance(error, (MemoryError, OSError))


def passing_refusal(label: str, error: BaseException) -> RefusedError:
    """The refusal of a request for a fault that passes, in the component `label`.

    The fault loses its traceback, whose frames hold the payload.
    """
    error.__traceback__ = None
    why = "out of memory" if isinstance(error, MemoryError) else str(error)
    return RefusedError(f"{label} cannot take it now: {why}", FAULT_RETRY_AFTER)


class PartlyRejectedError(RejectedError):
    """Some requests of a joined payload never; the others are taken.

    `culprits` are those that are not, as the payload's `sources` have them.
    """

    def __init__(self, message: str, reason: Reason, culprits: tuple[object, ...]) -> None:
        super().__init__(message, reason)
        self.culprits = culprits
