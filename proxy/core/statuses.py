"""The words by which callers read where a job stands. Public: none is ever renamed.

They are fewer than its states, and told by the job object (`proxy.web.answering.job_object`).
Commands that read them load nothing else of the core.
"""

from typing import Final

PENDING: Final = ("queued", "in_progress")
ENDED: Final = ("completed", "failed", "expired", "cancelled")

STATUSES: Final = (*PENDING, *ENDED)
