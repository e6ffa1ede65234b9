"""Under what each value is sealed: its kind and what it belongs to.

A value opens under its own context alone. These are stored with everything that was
ever sealed: never change one.
"""

from proxy.core.ids import CredentialId, JobId


def payload_context(job_id: JobId) -> str:
    """Return the context of the body of a job's call."""
    return f"payload:{job_id}"


def result_context(job_id: JobId) -> str:
    """Return the context of the body of a job's result."""
    return f"result:{job_id}"


def headers_context(credential_id: CredentialId) -> str:
    """Return the context of the header fields that carry a credential."""
    return f"credential:{credential_id}"


def refusal_context(credential_id: CredentialId) -> str:
    """Return the context of the answer that refused a credential."""
    return f"pause:{credential_id}"
