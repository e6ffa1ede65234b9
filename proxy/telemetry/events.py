"""Every event that the service logs: `noun.past_participle`, a closed list.

Operators alert on these names, so a new one is added here on purpose and none
is renamed.
"""

from typing import Final

UNLISTED: Final = "event.unlisted"
"""Stands in for a name that is not in the list."""

EVENTS: Final = frozenset(
    {
        # One line per call.
        "call.deferred",
        "call.forwarded",
        "call.refused",
        "call.unanswered",
        "call.unrecorded",
        # Jobs.
        "job.accepted",
        "job.answered_late",
        "job.called",
        "job.cancelled",
        "job.claimed",
        "job.deleted",
        "job.expired",
        "job.failed",
        "job.rerouted",
        "job.rescued",
        "job.stranded",
        "job.unread",
        "job.withdrawn",
        "claim.failed",
        "claim.mismatched",
        # Processes that serve together.
        "worker.ended",
        "worker.killed",
        "workers.started",
        "workers.stopped",
        # Batches.
        "batch.absent",
        "batch.adopted",
        "batch.cancelled",
        "batch.confirmed",
        "batch.disowned",
        "batch.dissolved",
        "batch.ended",
        "batch.ingested",
        "batch.lost",
        "batch.open_again",
        "batch.put_back",
        "batch.read_again",
        "batch.rejected",
        "batch.released",
        "batch.renamed",
        "batch.sealed",
        "batch.settled",
        "batch.stranded",
        "batch.submitted",
        "batch.throttled",
        "batch.twin_found",
        "batch.unclear",
        "batch.unreached",
        "batch.unread",
        "batch.unreadable",
        "batch.uploaded",
        "file.kept",
        "line.ignored",
        "provider.unknown_status",
        # What is known of providers, and what may be spent.
        "budget.spent",
        "note.unread",
        # Credentials.
        "credential.checked",
        "credential.paused",
        "credential.resumed",
        "credential.skipped",
        # Webhooks.
        "webhook.delivered",
        "webhook.failed",
        "webhook.given_up",
        "webhook.revived",
        "webhook.unread",
        "webhook.unrecorded",
        # The instance.
        "instance.failed",
        "instance.started",
        "files.scarce",
        "instance.stopped",
        "clock.doubted",
        "drain.requested",
        "lease.lost",
        "pass.done",
        "pass.failed",
        "pass.recovered",
        "certificate.kept",
        "handshake.failed",
        "certificate.loaded",
        "policies.kept",
        "policies.loaded",
        "policies.unchanged",
        "record.unread",
        "request.refused",
        "step.failed",
        "store.doubted",
        "store.emptied",
        "store.exposed",
        "store.trusted",
        "web_proxy.used",
        # Logging itself.
        UNLISTED,
        "library.logged",
        "log.dropped",
    }
)


class UnlistedEventError(AssertionError):
    """An event was logged whose name is not in the list."""

    def __init__(self, name: object) -> None:
        super().__init__(f"event {name!r} is not in proxy.telemetry.events.EVENTS")


def is_listed(name: object) -> bool:
    """Tell whether `name` is one of our events."""
    return isinstance(name, str) and name in EVENTS
