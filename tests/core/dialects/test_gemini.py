"""The rows of the Gemini family."""

from proxy.core.dialects import DIALECTS, presented_credential

GEMINI = DIALECTS["gemini"]


def test_a_key_in_the_query_counts_where_no_header_has_one() -> None:
    header = ((b"x-goog-api-key", b"H"),)

    query = presented_credential(GEMINI, (), query_key="Q")
    both = presented_credential(GEMINI, header, query_key="Q")

    assert query is not None
    assert both is not None
    assert (query.token, query.headers) == ("Q", (("x-goog-api-key", "Q"),))
    assert both.token == "H"
