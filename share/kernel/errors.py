"""The errors that travel to a user. Each message names the field or file and the remedy."""

from __future__ import annotations


class PixelisError(Exception):
    """Base of every error that Pixelis raises on purpose; the command lines print it in one line."""


class ConfigError(PixelisError):
    """A configuration that cannot be run: unknown key, wrong type, missing or unreadable file, taken run directory."""


class UnknownPlugin(ConfigError):
    """No backend of that kind and name. The message lists what exists and what is broken."""


class DuplicatePlugin(PixelisError):
    """Two origins registered one name of one kind. The message names both origins."""


class PluginLoadError(PixelisError):
    """A plugin is installed but cannot be used: a failed import, a missing extra, a newer hook API."""


class OperationError(PixelisError):
    """A visual operation refused its arguments or its image.

    It is shown to the policy as an observation, so the message must say what was wrong with which argument.
    """


class OperationTimeout(OperationError):
    """An operation did not return within its time limit."""


class OperationFault(OperationError):
    """An operation broke its contract: it raised an unexpected exception or returned a wrong type."""


class MediaError(OperationError):
    """An image or video that cannot be used: broken, giant, empty, of an unknown format."""


class TaskError(PixelisError):
    """A task source cannot yield a prompt; for files the message names file and line."""


class PolicyError(PixelisError):
    """A policy cannot be loaded or its inputs do not fit it."""


class ImageTokenMismatch(PolicyError):
    """The image pads of a sample do not equal its image features. The message names the rollout."""


class CheckpointError(PixelisError):
    """A checkpoint is missing, damaged or belongs to another configuration."""


class BufferProblem(PixelisError):
    """Base of what can go wrong with an experience buffer; nothing acknowledged is lost by any of them."""


class BufferLocked(BufferProblem):
    """Another process writes to the buffer. The message names it."""


class BufferFenced(BufferProblem):
    """Another writer has taken over the buffer: this one may never write again."""


class BufferFull(BufferProblem):
    """The disk or a quota is full: what was to be appended was not accepted; reading goes on."""


class BufferUnavailable(BufferProblem):
    """The disk refused to write or to sync: what was to be appended was not accepted; reading goes on."""


class BufferCorrupt(BufferProblem):
    """Acknowledged records are damaged. The message says where and how to salvage the rest."""


class ExperienceRefused(BufferProblem):
    """An experience that cannot be stored: wrong dimension, not finite, taken id. The message names the field."""


class IndexUnavailable(PixelisError):
    """An index cannot be built or used here: no GPU, too few rows, a damaged file."""


class TransportError(PixelisError):
    """A task or tensor cannot be handed to the update worker, or what came out is not what was put in."""


class SlabFull(TransportError):
    """No free slots for the tensor now: there will be after a confirmation."""


class TensorTooLarge(TransportError):
    """The tensor has more bytes than all slots together."""


class QueueFull(TransportError):
    """As many tasks are on their way as are allowed: there will be room after a confirmation."""


class LearningSuspended(TransportError):
    """Workers died too often: no task is taken until an operator resumes. Serving goes on."""


class TaskQuarantined(TransportError):
    """The task killed too many workers and is not tried again until an operator releases it."""


class TaskWithdrawn(TransportError):
    """The task was taken back before a worker had it: what it was about is to be forgotten."""


class GateMismatch(PixelisError):
    """A decision of the gate does not follow from what the log says before it. The message names request and field."""


class AuditBroken(PixelisError):
    """The audit log is not what was written: changed, cut, reordered, or its head is lost. The message says where."""


class AuditUnavailable(PixelisError):
    """The audit log cannot be written now, so what was to be done must not be done. The message says why."""


class ReviewProblem(PixelisError):
    """Base of what can go wrong with the review queue."""


class UnknownReview(ReviewProblem):
    """No task of that id is waiting for review or was decided: never queued, expired, or erased."""


class ReviewConflict(ReviewProblem):
    """The task was decided the other way, or another reviewer holds it. The first decision stands."""


class KeyProblem(PixelisError):
    """What can go wrong with the API keys: a file that cannot be used, too many keys, the last admin key."""


class KeyRefused(KeyProblem):
    """The key that came with a call is none, or no longer one. The message tells nothing about the keys."""


class UnknownKey(KeyProblem):
    """No API key has that id."""


class TooManyRequests(PixelisError):
    """More was asked than is let in now. `retry_after_s` says when to ask again, in seconds."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnknownTrace(PixelisError):
    """No request of that id is known to the client who names it: never asked, asked by another, expired or erased."""


class EngineClosed(PixelisError):
    """The engine is ending, and takes nothing more."""


class ServiceFull(TooManyRequests):
    """As many requests wait for an answer as may."""


class DeadlineExceeded(PixelisError):
    """A request waited until its deadline had passed; not a token was spent on it."""


class RequestDropped(PixelisError):
    """Nobody waited for the answer any more, so that it was not finished."""


class VersionProblem(PixelisError):
    """Base of what can go wrong with the versions of a policy's weights."""


class VersionDamaged(VersionProblem):
    """A version, or the pointer to the one that is live, is not what was written, or does not fit the policy."""


class UnknownVersion(VersionProblem):
    """There is no version of that name: never written, or removed because newer ones were published."""


class VersionConflict(VersionProblem):
    """Another version is live than the one that was to be replaced. The message names it."""


class UpdateRefused(PixelisError):
    """Nothing can be learned from a task: a field is missing or wrong, or an image is none. The message names it."""


class Interrupted(PixelisError):
    """The run was asked to stop (Ctrl-C or SIGTERM) and stopped at a point from which it can be resumed."""


__all__ = sorted(name for name, value in list(globals().items()) if isinstance(value, type))
