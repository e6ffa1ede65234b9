"""Open the adapters, run the house over them, and end it in order.

The only room that names adapters, reads the real clock and owns the tasks.
"""

from proxy.app.adapters import price_book
from proxy.app.machine import SystemClock
from proxy.app.serving import Running, prepare, run, serving

__all__ = ["Running", "SystemClock", "prepare", "price_book", "run", "serving"]
