"""Ask an upstream whether it knows a credential, at no cost."""

from collections.abc import Mapping

from proxy.core.dialects import DIALECTS
from proxy.core.errors import ProviderError
from proxy.core.outcomes import Verdict
from proxy.core.upstream import Upstream
from proxy.ports.jobs import Credential
from proxy.services.callers.accounts import CredentialVerdict
from proxy.services.direct.call import DirectCaller


class Verifier:
    """Verifies credentials by the upstream's listing of models."""

    def __init__(self, caller: DirectCaller, upstreams: Mapping[str, Upstream]) -> None:
        self._caller = caller
        self._upstreams = upstreams

    async def __call__(self, credential: Credential) -> CredentialVerdict:
        """Return what the upstream says. Raises nothing."""
        upstream = self._upstreams.get(credential.upstream)
        if upstream is None:
            return CredentialVerdict.UNKNOWN
        dialect = DIALECTS[upstream.dialect]
        models_path = upstream.target_of(dialect.models_path)
        try:
            answer = await self._caller.list_models(
                credential, models_path, dict(dialect.listing_headers)
            )
        except ProviderError:
            return CredentialVerdict.UNKNOWN
        match answer.answer.verdict:
            case Verdict.SUCCESS:
                return CredentialVerdict.ACCEPTED
            case Verdict.CREDENTIAL:
                return CredentialVerdict.REFUSED
            case _:
                return CredentialVerdict.UNKNOWN
