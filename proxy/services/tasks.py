"""Who owns work that outlives the pass that began it."""

from proxy.ports.tasks import TaskOwner

__all__ = ["TaskOwner"]
