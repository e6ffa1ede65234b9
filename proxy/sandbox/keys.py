"""API keys of the sandbox: whose project they open and what they are refused.

An unknown key is a good one with a project of its own, so that tests invent keys freely. What a
key may do can change at any time, as when an operator revokes it or the credit runs out.
"""

from dataclasses import dataclass, replace
from typing import Literal

from proxy.sandbox.ledger import key_id

QuotaSurface = Literal["call", "batch", "line"]
"""Where exhausted credit shows in batches: refused create, failed batch, or each line."""


@dataclass(frozen=True, slots=True)
class KeyState:
    """What the provider knows about one key. The key itself is not kept."""

    key_id: str
    project: str
    valid: bool = True
    in_quota: bool = True
    quota_surface: QuotaSurface = "call"
    batch_scope: bool = True


class Keys:
    """All keys that were seen or declared, by fingerprint."""

    def __init__(self) -> None:
        self._states: dict[str, KeyState] = {}

    def state(self, key: str) -> KeyState:
        """Return what is known of a key; an unknown one is valid and alone in its project."""
        identity = key_id(key)
        return self._states.get(identity) or KeyState(identity, f"proj_{identity}")

    def current(self, identity: str, project: str) -> KeyState:
        """Return the present state of a key that was seen earlier under that fingerprint."""
        return self._states.get(identity) or KeyState(identity, project)

    def assign(self, key: str, project: str) -> None:
        """Put a key into a project; keys of one project see the same files and batches."""
        self._put(replace(self.state(key), project=project))

    def revoke(self, key: str) -> None:
        """Answer 401 `invalid_api_key` from now on; running batches go on, as at OpenAI."""
        self._put(replace(self.state(key), valid=False))

    def exhaust(self, key: str, *, surface: QuotaSurface = "call") -> None:
        """Let the credit run out: 429 `insufficient_quota`; batches show it at `surface`."""
        self._put(replace(self.state(key), in_quota=False, quota_surface=surface))

    def deny_batch(self, key: str) -> None:
        """Take the batch scope from a key: 403 on everything under `/v1/batches`."""
        self._put(replace(self.state(key), batch_scope=False))

    def restore(self, key: str) -> None:
        """Make a key good again, in the project it had."""
        state = self.state(key)
        self._put(KeyState(state.key_id, state.project))

    def _put(self, state: KeyState) -> None:
        self._states[state.key_id] = state
