"""Any JSON in any field of any door: served, or a 400, 404 or 413 in that door's own shape that says what is wrong. Never a 500."""

from __future__ import annotations

import json

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.live.doors import END, doors

MESSAGES = [{"role": "user", "content": "x"}]
DOORS = {
    "/v1/chat/completions": (
        {"model": "tiny", "messages": MESSAGES},
        ["stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop", "n",
         "logprobs", "tools", "response_format"],
    ),
    "/api/chat": (
        {"model": "tiny", "messages": MESSAGES}, ["stream", "options", "format", "keep_alive", "think", "tools"],
    ),
    "/api/generate": (
        {"model": "tiny", "prompt": "x"},
        ["suffix", "system", "template", "stream", "raw", "options", "format", "keep_alive", "images", "context"],
    ),
    "/generate": (
        {"model": "tiny", "prompt": "x"},
        ["stream", "max_tokens", "temperature", "top_p", "stop", "seed", "qos", "timeout_s"],
    ),
}  # fmt: skip
OPTIONS = ["seed", "num_predict", "num_ctx", "stop", "temperature", "top_k"]
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-(1 << 80), 1 << 80), st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5), st.sampled_from(["tiny", "user", 1e308, -1, 0, 1]),
)  # fmt: skip
ANY = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=5
)  # fmt: skip


@st.composite
def requests(draw):
    """(path, body, headers): an honest request with up to three fields changed."""
    path = draw(st.sampled_from(sorted(DOORS)))
    honest, others = DOORS[path]
    body = dict(honest)
    for field in draw(st.lists(st.sampled_from([*honest, *others]), max_size=3)):
        body[field] = draw(ANY)
    if "options" in others and draw(st.booleans()):
        body["options"] = {draw(st.sampled_from(OPTIONS)): draw(ANY)}
    timeout = draw(st.none() | st.sampled_from(["nan", "inf", "-1", "1e400", "", "0x1", "1"]))
    return path, json.dumps(body).encode(), {} if timeout is None else {"x-quiver-timeout-s": timeout}


def test_any_body_is_served_or_refused_in_the_doors_own_shape():
    seen = set()
    with doors("a", END) as (url, _), httpx.Client() as client:

        @settings(max_examples=400, deadline=None)
        @given(request=requests())
        def ask(request):
            path, body, headers = request
            answer = client.post(url + path, content=body, headers=headers)
            seen.add(answer.status_code)
            assert answer.status_code in (200, 400, 404, 413), (answer.text, body, headers)
            if answer.status_code != 200:
                error = answer.json()["error"]
                message = error if path.startswith("/api/") else error["message"]
                assert isinstance(message, str) and message

        ask()
    assert {200, 400} <= seen
