from proxy.core.ids import CredentialId, JobId
from proxy.stores.contexts import (
    headers_context,
    payload_context,
    refusal_context,
    result_context,
)

JOB, CREDENTIAL = JobId("job_1"), CredentialId("c")


def test_contexts_are_what_earlier_versions_sealed_under():
    assert payload_context(JOB) == "payload:job_1"
    assert result_context(JOB) == "result:job_1"
    assert headers_context(CREDENTIAL) == "credential:c"
    assert refusal_context(CREDENTIAL) == "pause:c"
