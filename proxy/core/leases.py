"""How long a lease may last."""

from datetime import timedelta
from typing import Final

LEASE_MIN: Final = timedelta(seconds=3)
"""A lease is renewed several times before its end, by passes that may be late."""

LEASE_MAX: Final = timedelta(hours=1)
"""No lease is taken for longer. One that would last longer was noted before the clock was set
back, by somebody who may be gone: whoever holds it yet renews it within moments."""
