"""What of a call goes into a batch, and what is refused before it is queued."""

import json

import pytest

from proxy.core.affinity import DIGITS
from proxy.core.body import parse_body
from proxy.core.dialects import DIALECTS, Place
from proxy.core.errors import CallerError
from proxy.services.deferral.admission import admit

ENDPOINTS = DIALECTS["openai"].endpoints
CHAT = ENDPOINTS["/v1/chat/completions"]
RESPONSES = ENDPOINTS["/v1/responses"]
EMBEDDINGS = ENDPOINTS["/v1/embeddings"]
IMAGES = ENDPOINTS["/v1/images/generations"]
IMAGE_EDITS = ENDPOINTS["/v1/images/edits"]
MINIMAL = b'{"model":"m","messages":[{"role":"user","content":"hi"}]'


def admitted(body, endpoint=CHAT, *, max_line_bytes=1_000_000):
    parsed = parse_body(body, max_bytes=1_000_000)
    return admit(parsed, Place(endpoint), max_line_bytes=max_line_bytes)


def chat(*messages, **fields):
    return json.dumps({"model": "m", "messages": list(messages), **fields}).encode()


def said(text, role="user"):
    return {"role": role, "content": text}


def test_where_batches_take_urls_alone_a_picture_keeps_a_call_out():
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0"}}
    named = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    endpoint = DIALECTS["openrouter"].endpoints["/v1/chat/completions"]

    assert admitted(chat(said([named])), endpoint).fits_a_batch
    assert not admitted(chat(said([picture])), endpoint).fits_a_batch
    assert not admitted(chat(said("draw"), modalities=["image"]), endpoint).fits_a_batch
    assert admitted(chat(said([picture])), CHAT).fits_a_batch


def test_a_line_above_the_providers_bound_is_refused_with_both_lengths():
    body = MINIMAL + b"}"

    with pytest.raises(CallerError, match=rf"has {len(body)} bytes.*may have 20") as refusal:
        admitted(body, max_line_bytes=20)

    assert refusal.value.code == "request_too_large"


@pytest.mark.parametrize("endpoint", ENDPOINTS.values(), ids=lambda each: each.shape)
def test_every_required_field_is_asked_for(endpoint):
    valid = {"model": "m", "messages": [said("x")], "prompt": "x", "input": "x", "images": [{}]}
    for name in endpoint.required:
        fields = {key: valid[key] for key in endpoint.required if key != name}
        with pytest.raises(CallerError) as refusal:
            admitted(json.dumps(fields).encode(), endpoint)

        assert refusal.value.param == name
        assert refusal.value.code == "missing_required_parameter"


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"model": 7}, "model", "invalid_type"),
        ({"model": ""}, "model", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": "hi"}, "messages", "invalid_type"),
        ({"messages": [said("a"), "b"]}, "messages[1]", "invalid_type"),
        ({"messages": [None]}, "messages[0]", "invalid_type"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"background": 1}, "background", "invalid_type"),
    ],
)
def test_a_field_of_the_wrong_type_is_refused_by_its_name(change, param, code):
    body = json.dumps({"model": "m", "messages": [said("x")], **change}).encode()

    with pytest.raises(CallerError) as refusal:
        admitted(body)

    assert (refusal.value.param, refusal.value.code) == (param, code)


def test_a_response_may_take_its_prompt_from_the_provider():
    assert admitted(b'{"model":"m","prompt":{"id":"pmpt_1"}}', RESPONSES).model == "m"


def test_the_window_of_a_background_response_goes_with_the_background():
    window = b'"background":true,"background_options":{"completion_window":"8h"}'

    line = admitted(b'{"model":"m",%b,"input":"x"}' % window, RESPONSES).line_body

    assert line == b'{"model":"m","input":"x"}'


def test_a_moderation_needs_no_model():
    assert admitted(b'{"input":"x"}', ENDPOINTS["/v1/moderations"]).model == ""


def test_the_background_of_an_image_is_no_matter_of_the_lane():
    body = b'{"prompt":"x","background":"transparent","stream":true,"partial_images":2}'

    assert admitted(body, IMAGES).line_body == b'{"prompt":"x","background":"transparent"}'


def test_conversations_to_classify_may_be_objects():
    endpoint = DIALECTS["mistral"].endpoints["/v1/chat/classifications"]
    body = b'{"model":"m","input":{"messages":[]}}'

    assert admitted(body, endpoint).line_body == body


def test_an_image_that_is_answered_by_a_passing_url_is_in_no_batch():
    assert admitted(b'{"prompt":"x"}', IMAGES).fits_a_batch
    assert not admitted(b'{"prompt":"x","response_format":"url"}', IMAGES).fits_a_batch


@pytest.mark.parametrize("images", ["x", {"file_id": "file-1"}])
def test_the_images_to_edit_are_a_list(images):
    with pytest.raises(CallerError) as refusal:
        admitted(json.dumps({"prompt": "x", "images": images}).encode(), IMAGE_EDITS)

    assert (refusal.value.param, refusal.value.code) == ("images", "invalid_type")


def test_a_response_cannot_follow_a_job():
    job = "job_01" + "0" * 25
    # The last character checks the others: for this ID, by trial, it is found here.
    ours = next(job + last for last in "0123456789ABCDEFGHJKMNPQRSTVWXYZ" if is_ours(job + last))

    with pytest.raises(CallerError, match="wait for the job") as refusal:
        admitted(
            json.dumps({"model": "m", "previous_response_id": ours}).encode(), endpoint=RESPONSES
        )

    assert refusal.value.param == "previous_response_id"
    admitted(b'{"model":"m","previous_response_id":"resp_1"}', RESPONSES)


def is_ours(text):
    from proxy.core.ids import is_job_id

    return is_job_id(text)


def test_tokens_are_a_quarter_of_the_bytes_and_an_attachment_counts_by_piece():
    text = admitted(chat(said("word " * 2000))).tokens
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 400_000}}
    shown = admitted(chat({"role": "user", "content": [image]})).tokens

    assert text == pytest.approx(2500, rel=0.02)
    assert 1000 < shown < 1100


def test_calls_with_the_same_system_prompt_begin_alike():
    rules = said("You are terse.", role="system")

    one, other = (admitted(chat(rules, said(text))).affinity for text in "ab")

    assert one != other
    assert one[:DIGITS] == other[:DIGITS]
    assert admitted(MINIMAL.replace(b"hi", b"\\ud83d") + b"}").affinity
