"""What a webhook is sent of the end of a job: the job object, and nothing of its call."""

import json

from proxy.core.job import Job
from proxy.web.answering.job_object import job_object


def notice_payload(job: Job) -> bytes:
    """Return the body of a webhook, in the members that Standard Webhooks recommends.

    The same bytes for the same job, so that a repeat differs in nothing but its time.
    """
    assert job.finalized_at is not None, f"job {job.id} has not ended"
    content = {
        "type": f"job.{job.state.value}",
        "timestamp": job.finalized_at.isoformat().replace("+00:00", "Z"),
        "data": job_object(job, now=job.finalized_at),
    }
    return json.dumps(content, separators=(",", ":")).encode()
