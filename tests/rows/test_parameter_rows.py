"""Rows P: every parameter at its limits and beyond, on a live server beside victims."""

import math
import socket
import threading

import pytest

from row_tools import Client, Stream

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
VOCAB, CONTEXT = 512, 512
USER = {"role": "user", "content": "Hi"}
BASE = {COMPLETIONS: {"prompt": "Once", "max_tokens": 3, "temperature": 0},
        CHAT: {"messages": [USER], "max_tokens": 3, "temperature": 0}}


class Asker(Client):
    def ok(self, path, **extra):
        answer = self.post(path, {**BASE[path], **extra})
        assert answer.status == 200, (extra, answer.body)
        return answer.json()

    def refused(self, path, field, value, param=None, status=400):
        """400 that names the field; a stream is refused the same way, before its head."""
        bodies = [{**BASE[path], field: value}, {**BASE[path], field: value, "stream": True}]
        for body in bodies if field != "stream" else bodies[:1]:
            answer = self.post(path, body)
            assert answer.status == status, (field, str(value)[:80], answer.body[:300])
            assert answer.error["param"] == (param or field), (field, value, answer.error)
            assert len(answer.body) < 1000


@pytest.fixture
def asker(server):
    with Asker(server) as asker:
        yield asker


BIG = (2 ** 31, 2 ** 32, 2 ** 63 - 1, 2 ** 63, 2 ** 64, 10 ** 30, 1e308)


def test_P1_counts_of_answers(asker):
    for field, paths in (("n", (COMPLETIONS, CHAT)), ("best_of", (COMPLETIONS,))):
        for path in paths:
            for value in (0, -1, 129, *BIG, 1.5, "3", True, [1], {}):
                asker.refused(path, field, value)
    for n in (1, 2, 128):
        answer = asker.ok(COMPLETIONS, n=n, best_of=n, max_tokens=1)
        assert [each["index"] for each in answer["choices"]] == list(range(n))
    asker.refused(COMPLETIONS, "best_of", 2)  # of one answer
    answer = asker.post(COMPLETIONS, {**BASE[COMPLETIONS], "prompt": ["a"] * 3, "n": 86})
    assert answer.status == 400 and answer.error["param"] == "n"  # 258 answers


def test_P2_lengths_of_answers(asker):
    for path in (COMPLETIONS, CHAT):
        for field in ("max_tokens", "max_completion_tokens"):
            body = {key: value for key, value in BASE[path].items() if key != "max_tokens"}
            for value in (-1, -2 ** 31, *BIG, 1.5, "3", True, 0):
                answer = asker.post(path, {**body, field: value})
                assert answer.status == 400, (field, value)
                assert answer.error["param"] in (field, "max_tokens")
            for value in (CONTEXT, CONTEXT + 1, 2 ** 31 - 1):
                error = asker.post(path, {**body, field: value}).error
                assert error["code"] == "context_length_exceeded"
                assert str(CONTEXT) in error["message"] and str(value) in error["message"]
        asker.refused(path, "max_completion_tokens", 4, "max_tokens")  # max_tokens says 3
        asker.ok(path, max_completion_tokens=3)
    num_prompt = asker.ok(COMPLETIONS)["usage"]["prompt_tokens"]
    room = CONTEXT - num_prompt
    answer = asker.ok(COMPLETIONS, max_tokens=room, ignore_eos=True)
    assert answer["usage"]["completion_tokens"] == room
    assert asker.post(COMPLETIONS, {"prompt": "Once", "max_tokens": room + 1}).status == 400
    for length in (CONTEXT, CONTEXT + 1, 10 * CONTEXT):  # a prompt alone
        answer = asker.post(COMPLETIONS, {"prompt": [7] * length, "max_tokens": 1})
        assert answer.error["code"] == "context_length_exceeded"
        assert answer.error["param"] == "prompt" and str(length) in answer.error["message"]
    answer = asker.ok(COMPLETIONS, max_tokens=0, echo=True)
    assert answer["choices"][0]["text"] == "Once" and answer["usage"]["completion_tokens"] == 0


def test_P3_fewest_tokens(asker):
    for path in (COMPLETIONS, CHAT):
        for value in (-1, *BIG, 1.5, "3", 4):
            asker.refused(path, "min_tokens", value)
        for value in (0, 1, 3):
            asker.ok(path, min_tokens=value)
    chat = {"messages": [USER], "temperature": 0}  # without max_tokens: up to the context
    answer = asker.post(CHAT, {**chat, "min_tokens": 2 ** 31 - 1})
    assert answer.status == 400 and answer.error["param"] == "min_tokens"
    answer = asker.post(COMPLETIONS, {"prompt": "Once", "min_tokens": 40, "temperature": 0})
    assert answer.json()["usage"]["completion_tokens"] == 40
    end_now = {"logit_bias": {"2": 100}, "min_tokens": 3, "max_tokens": 9}
    assert asker.ok(COMPLETIONS, **end_now)["usage"]["completion_tokens"] == 4


@pytest.mark.parametrize("field, low, high", [
    ("temperature", 0, 100), ("top_p", 0, 1), ("min_p", 0, 1)])
def test_P4_shares_and_temperature(asker, field, low, high):
    for path in (COMPLETIONS, CHAT):
        for value in (-1e-9, -1, -1e30, 1e30, -1e308, 1e308, high * 1.0001, "0.7", True, [], {}):
            asker.refused(path, field, value)
        for value in (low, -0.0, 1e-45, 1e-300, 1e-10, high, (low + high) / 2):
            answer = asker.ok(path, temperature=1, seed=1, **{field: value}, logprobs=1) \
                if field != "temperature" and path == COMPLETIONS else asker.ok(path, seed=1,
                                                                               **{field: value})
            assert answer["usage"]["completion_tokens"] >= 1
    raw = b'{"prompt": "x", "max_tokens": 1, "%s": %s}'
    for value in (b"NaN", b"Infinity", b"-Infinity", b"1e999"):
        assert asker.post(COMPLETIONS, raw % (field.encode(), value)).status == 400
    if field == "temperature":
        greedy = asker.ok(COMPLETIONS, max_tokens=40, logprobs=1)["choices"]
        for tiny in (1e-45, 1e-30, 1e-10):
            assert asker.ok(COMPLETIONS, max_tokens=40, logprobs=1,
                            temperature=tiny)["choices"] == greedy
        assert all(math.isfinite(each) for each in greedy[0]["logprobs"]["token_logprobs"])


def test_P5_top_k(asker):
    for path in (COMPLETIONS, CHAT):
        for value in (-2, *BIG, 1.5, "3", True):
            asker.refused(path, "top_k", value)
        for value in (-1, 0, 1, VOCAB - 1, VOCAB, VOCAB + 1, 2 ** 31 - 1):
            asker.ok(path, top_k=value, temperature=1, seed=3)
    free, *others = [asker.ok(COMPLETIONS, top_k=value, temperature=1, seed=3)["choices"]
                     for value in (-1, 0, VOCAB, 2 ** 31 - 1)]
    assert others == [free] * 3
    greedy = asker.ok(COMPLETIONS)["choices"]
    assert asker.ok(COMPLETIONS, top_k=1, temperature=1, seed=3)["choices"] == greedy


def test_P6_penalties(asker):
    for path in (COMPLETIONS, CHAT):
        for field, bad, good in (
                ("presence_penalty", (-2.01, 2.01), (-2, 2)),
                ("frequency_penalty", (-2.01, 2.01), (-2, 2)),
                ("repetition_penalty", (0, -1, -0.0, 1e-45, 100.1), (0.01, 100))):
            for value in (*bad, 1e30, -1e30, 1e308, "1", True, []):
                asker.refused(path, field, value)
            for value in good:
                asker.ok(path, **{field: value}, max_tokens=20)


def test_P7_all_tokens_masked(asker):
    everything = {str(token): -100 for token in range(VOCAB)}
    answer = asker.ok(COMPLETIONS, logit_bias=everything, max_tokens=30, logprobs=2)
    assert answer["choices"] == asker.ok(COMPLETIONS, max_tokens=30, logprobs=2)["choices"]
    never = [[token, False] for token in range(VOCAB)]
    for extra in ({"logit_bias": never}, {"allowed_token_ids": [5], "logit_bias": [[5, False]]}):
        for path in (COMPLETIONS, CHAT):
            for stream in (False, True):
                answer = asker.post(path, {**BASE[path], **extra, "stream": stream})
                assert answer.status == 400 and "none to choose" in answer.error["message"], extra
    answer = asker.ok(COMPLETIONS, logit_bias=never[1:], return_token_ids=True)
    assert answer["choices"][0]["token_ids"] == [0] * 3
    asker.ok(COMPLETIONS, allowed_token_ids=[])
    # What only shows on the way fails this request alone, and no token is invented.
    stuck = {"allowed_token_ids": [2], "min_tokens": 2, "prompt": "Once", "max_tokens": 3}
    answer = asker.post(COMPLETIONS, stuck)
    assert answer.status in (400, 500) and "no token" in answer.error["message"]


def test_P8_logit_bias(asker):
    for path in (COMPLETIONS, CHAT):
        for key in (VOCAB, -1, 1_000_000, 2 ** 31, 2 ** 32, 2 ** 32 + 5, 2 ** 64, "a", "", "1.5",
                    " 1", "1 ", "+1", "0x1", "1e1", "١"):
            asker.refused(path, "logit_bias", {str(key): 1})
        for value in (101, -101, 1e308, "1", None, [], {}, True):
            asker.refused(path, "logit_bias", {"5": value})
        many = {str(token): 1 for token in range(100_000)} if path == CHAT else \
            {str(token): 1 for token in range(1025)}
        answer = asker.post(path, {**BASE[path], "logit_bias": many})
        assert answer.status == 400
        asker.ok(path, logit_bias={str(token): 0 for token in range(VOCAB)})
        asker.ok(path, logit_bias={})
        asker.ok(path, logit_bias={"5": 100, "6": -100, "0": 0.5, str(VOCAB - 1): 1})
    for value in (b"NaN", b"Infinity", b"-1e999"):
        body = b'{"prompt": "x", "max_tokens": 1, "logit_bias": {"5": %s}}' % value
        assert asker.post(COMPLETIONS, body).status == 400
    answer = asker.ok(COMPLETIONS, logit_bias={str(VOCAB - 1): 100}, return_token_ids=True)
    assert answer["choices"][0]["token_ids"] == [VOCAB - 1] * 3


def test_P9_ids_beyond_the_logits(asker):
    for path in (COMPLETIONS, CHAT):
        for field in ("stop_token_ids", "allowed_token_ids"):
            for token in (VOCAB, VOCAB + 1, -1, 2 ** 31, 2 ** 32, 2 ** 32 + 5, 2 ** 63, 2 ** 64,
                          1.5, "5", True, None, [5]):
                asker.refused(path, field, [5, token])
            asker.refused(path, field, [5] * 1025)
            asker.refused(path, field, 5)
            asker.ok(path, **{field: [0, VOCAB - 1]})
        for words in ([""], [5], "x", [None], ["x"] * 65, ["x" * 257], {"a": 1},
                      ["q" * 256]):  # of more tokens than a banned sequence may have
            asker.refused(path, "bad_words", words)
        asker.ok(path, bad_words=["Once", "é", "\U0001f600", "</s>", "q" * 100])


def test_P10_stop_strings(asker):
    for path in (COMPLETIONS, CHAT):
        for stop in ("", [""], ["a", ""], ["x"] * 17, ["x"] * 10_000, "x" * 1025, "x" * 1_000_000,
                     [5], [None], {"a": 1}, 5, True, [["a"]], ["x" * 1025]):
            asker.refused(path, "stop", stop)
        for stop in ("x", [], ["x"] * 16, "x" * 1024, ["a", "ab", "abc", "b"], "<s>", "</s>", "é",
                     "\U0001f600", "\0", "\u2028", " ", "\n", None):
            asker.ok(path, stop=stop, max_tokens=20)
        for stop in (b'"\xff"', b'["\xed\xa0\x80"]', b'"\\ud800"'):
            body = b'{"prompt": "x", "messages": [], "stop": %s}' % stop
            assert asker.post(path, body).status == 400


def test_P11_logprobs(asker):
    for value in (21, -1, VOCAB, *BIG, 1.5, "3", [], {}):
        asker.refused(COMPLETIONS, "logprobs", value)
        answer = asker.post(CHAT, {**BASE[CHAT], "logprobs": True, "top_logprobs": value})
        assert answer.status == 400 and answer.error["param"] == "top_logprobs", value
        for path in (COMPLETIONS, CHAT):
            asker.refused(path, "prompt_logprobs", value)
    asker.refused(CHAT, "top_logprobs", 3)  # without logprobs
    for value in (0, 1, 20):
        logprobs = asker.ok(COMPLETIONS, logprobs=value)["choices"][0]["logprobs"]
        assert all(len(each) in (value, value + 1) for each in logprobs["top_logprobs"] if each)
        chat = asker.ok(CHAT, logprobs=True, top_logprobs=value)["choices"][0]["logprobs"]
        assert [len(each["top_logprobs"]) for each in chat["content"]] == [value] * 3
    # The longest prompt, many times over at once.
    prompt = [1] + [7 + idx % 400 for idx in range(CONTEXT - 2)]
    body = {"prompt": prompt, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 20}
    answers = at_once(asker.server, COMPLETIONS, [body] * 12)
    assert all(each["choices"] == answers[0]["choices"] for each in answers)
    found = answers[0]["choices"][0]["prompt_logprobs"]
    assert len(found) == len(prompt) and found[0] is None


def at_once(server, path, bodies):
    """The answers of requests that are sent at the same time, each by its own connection."""
    answers = [None] * len(bodies)

    def ask(idx):
        with Client(server) as client:
            answer = client.post(path, bodies[idx])
            answers[idx] = answer.json() if answer.status == 200 else answer

    threads = [threading.Thread(target=ask, args=(idx,)) for idx in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_P12_seeds(asker):
    for path in (COMPLETIONS, CHAT):
        for value in (2 ** 63, 2 ** 64, 2 ** 64 - 1, -2 ** 63 - 1, 1.5, "3", True, [], 1e308):
            asker.refused(path, "seed", value)
    body = {"prompt": "Once", "max_tokens": 30, "temperature": 1.5, "ignore_eos": True,
            "return_token_ids": True}
    seeds = (0, 1, -1, 2 ** 63 - 1, -2 ** 63, 2 ** 32)
    alone = [asker.ok(COMPLETIONS, **body, seed=seed)["choices"] for seed in seeds]
    loaded = at_once(asker.server, COMPLETIONS, [{**body, "seed": seed} for seed in seeds * 4])
    assert [each["choices"] for each in loaded] == alone * 4
    assert len({str(each) for each in alone}) == len(seeds)


def test_P13_prompts(asker):
    for prompt in ([], [[]], [[1], []], 5, True, {}, [None], [True], [1.5], [[1.5]], [-1], [VOCAB],
                   [2 ** 31], [2 ** 32], [2 ** 63], [2 ** 64], [[VOCAB]], [[1], [-1]], ["a", 1],
                   [1, "a"], ["a", [1]], [[1], "a"], [[1], 1], [1, [1]], [["a"]], [[[1]]], [{}],
                   ["a"] * 257, [[1]] * 257, ["a"] * 100_000):
        asker.refused(COMPLETIONS, "prompt", prompt)
    answer = asker.post(COMPLETIONS, {"max_tokens": 1})
    assert answer.status == 400 and answer.error["param"] == "prompt"
    answer = asker.post(COMPLETIONS, {"prompt": "", "max_tokens": 1})
    assert answer.status in (200, 400)  # bos alone is a prompt where there is one
    assert answer.status == 200 and answer.json()["usage"]["prompt_tokens"] == 1
    for prompt in ("a", ["a"], [1], [[1]], [[1], [2, 3]], ["a", "b"], [0, VOCAB - 1]):
        asker.ok(COMPLETIONS, prompt=prompt)
    answer = asker.ok(COMPLETIONS, prompt=["a"] * 256, max_tokens=1)
    assert len(answer["choices"]) == 256
    answer = asker.post(COMPLETIONS, {"prompt": "x" * (4 << 20) + "x", "max_tokens": 1})
    assert answer.status == 413 and "4194304" in answer.error["message"]


TEXT_PART = {"type": "text", "text": "Hi"}
BAD_MESSAGES = [
    ([], "messages"), ("Hi", "messages"), ({}, "messages"), (5, "messages"),
    ([5], "messages[0]"), ([None], "messages[0]"), (["Hi"], "messages[0]"), ([[]], "messages[0]"),
    ([{}], "messages[0].role"), ([{"content": "x"}], "messages[0].role"),
    ([{"role": 5, "content": "x"}], "messages[0].role"),
    ([{"role": "wizard", "content": "x"}], "messages[0].role"),
    ([{"role": "", "content": "x"}], "messages[0].role"),
    ([{"role": "User", "content": "x"}], "messages[0].role"),
    ([{"role": "function", "content": "x"}], "messages[0].role"),
    ([USER, {"role": "user"}], "messages[1].content"),
    ([USER, {"role": "assistant", "content": None}], "messages[1].content"),
    ([USER, {"role": "assistant", "tool_calls": []}], "messages[1].content"),
    ([{"role": "user", "content": None}], "messages[0].content"),
    ([{"role": "user", "content": 5}], "messages[0].content"),
    ([{"role": "user", "content": {"text": "x"}}], "messages[0].content"),
    ([{"role": "user", "content": [5]}], "messages[0].content"),
    ([{"role": "user", "content": [{}]}], "messages[0].content"),
    ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content"),
    ([{"role": "user", "content": [{"type": "text", "text": 5}]}], "messages[0].content"),
    ([{"role": "user", "content": [{"type": "hologram", "x": 1}]}], "messages[0].content"),
    ([{"role": "user", "content": [TEXT_PART, {"type": None}]}], "messages[0].content"),
    ([{"role": "tool", "content": "x"}], "messages[0].tool_call_id"),
    ([{"role": "tool", "content": "x", "tool_call_id": 5}], "messages[0].tool_call_id"),
    ([USER] * 4097, "messages"), ([USER] * 100_000, "messages")]


def test_P14_messages(asker):
    for messages, param in BAD_MESSAGES:
        answer = asker.post(CHAT, {"messages": messages, "max_tokens": 1})
        assert answer.status == 400, (str(messages)[:80], answer.body)
        assert answer.error["param"].startswith(param), (str(messages)[:80], answer.error)
    answer = asker.post(CHAT, {"max_tokens": 1})
    assert answer.status == 400 and answer.error["param"] == "messages"
    for message in ({"role": "user", "content": ""}, {"role": "user", "content": [TEXT_PART] * 9},
                    {"role": "tool", "content": "x", "tool_call_id": "c"},
                    {"role": "developer", "content": "x"}, {**USER, "name": "Bob", "odd": [1]}):
        asker.ok(CHAT, messages=[message])
    answer = asker.post(CHAT, {"messages": [USER] * 4096, "max_tokens": 1})
    assert answer.error["code"] == "context_length_exceeded"


def test_P15_P16_what_is_not_served_is_refused_by_name(asker):
    tool = {"type": "function", "function": {"name": "f", "parameters": {
        "$ref": "http://169.254.169.254/x", "pattern": "(a*)*b("}}}
    for tools in ([tool], [tool] * 1000, [5], "x", {}):
        asker.refused(CHAT, "tools", tools)
    for value in ({"type": "json_object"}, {"type": "json_schema", "json_schema": {}}, {},
                  {"type": 5}, {"type": ""}):
        for path in (COMPLETIONS, CHAT):
            asker.refused(path, "response_format", value, "response_format.type")
    for field in ("grammar", "guided_json", "guided_regex", "structured_outputs", "json_schema"):
        asker.refused(COMPLETIONS, field, "(" * 30_000)
    asker.ok(CHAT, tools=[], tool_choice="none", response_format={"type": "text"})


def test_P17_models_that_are_not_served(asker):
    served = asker.server.model
    for model in ("", "gpt-4", served + "x", served[:-1], served.upper(), f" {served}", f"{served}/",
                  "../" + served, "/etc/passwd", "..", "x" * 100_000, "a\0b", "http://x/y",
                  str(asker.server.folder)):
        for path in (COMPLETIONS, CHAT, "/v1/responses"):
            base = BASE.get(path, {"input": "x"})
            answer = asker.post(path, {**base, "model": model})
            assert answer.status == 404, (path, model, answer.body)
            assert answer.error["code"] == "model_not_found"
            assert answer.error["param"] == "model" and len(answer.body) < 1000
    for value in (5, [served], {}, True):
        asker.refused(COMPLETIONS, "model", value)
    for path in ("/v1/models/gpt-4", "/v1/models/..%2f..%2fetc%2fpasswd"):
        assert asker.ask("GET", path).status == 404
    asker.ok(COMPLETIONS, model=served)
    asker.ok(CHAT, model=served)


def test_P18_stream_options_and_usage(asker, slow):
    for path in (COMPLETIONS, CHAT):
        answer = asker.post(path, {**BASE[path], "stream_options": {"include_usage": True}})
        assert answer.status == 400 and answer.error["param"] == "stream_options"
        for value in ("x", [], 5, {"include_usage": "yes"}, {"include_usage": 1}):
            answer = asker.post(path, {**BASE[path], "stream": True, "stream_options": value})
            assert answer.status == 400
            assert answer.error["param"].startswith("stream_options")
        events = list(asker.events(path, {**BASE[path], "n": 3, "return_token_ids": True,
                                          "stream_options": {"include_usage": True}}))
        assert events[-1] == "[DONE]" and events[-2]["choices"] == []
        assert events[-2]["usage"]["completion_tokens"] == 9
        assert Stream(iter(events), num_choices=3).error is None
    # A client that leaves has its tokens counted, and gets no usage any more.
    with Client(slow) as client:
        body = {"prompt": "Once", "max_tokens": 300, "ignore_eos": True}
        events = client.events(COMPLETIONS, {**body, "stream_options": {"include_usage": True}},
                               {"x-request-id": "left-in-P18"})
        for _ in range(3):
            next(events)
        client.reader.sock.shutdown(socket.SHUT_RDWR)
        client.close()
    slow.wait_for(lambda m: "id=left-in-P18" in slow.log(), "it was accounted")


def test_P19_media_of_any_address_are_refused_and_never_fetched(asker):
    with socket.create_server(("127.0.0.1", 0)) as trap:
        here = f"http://127.0.0.1:{trap.getsockname()[1]}/x.png"
        for url in (here, "http://169.254.169.254/latest/meta-data", "file:///etc/passwd",
                    "data:image/png;base64,AAAA", "gopher://x"):
            for part in ({"type": "image_url", "image_url": {"url": url}},
                         {"type": "input_image", "image_url": url},
                         {"type": "input_audio", "input_audio": {"data": url, "format": "wav"}},
                         {"type": "file", "file": {"file_data": url}},
                         {"type": "video_url", "video_url": {"url": url}}):
                for content in ([part], [TEXT_PART, part]):
                    answer = asker.post(CHAT, {"messages": [{"role": "user", "content": content}]})
                    assert answer.status == 400, part
                    assert answer.error["param"].startswith("messages[0].content")
        answer = asker.post(CHAT, {**BASE[CHAT], "audio": {"voice": "x"}})
        assert answer.status == 400
        trap.setblocking(False)
        with pytest.raises(BlockingIOError):
            trap.accept()


def test_P20_labels(asker):
    for path in (COMPLETIONS, CHAT):
        for field in ("cache_salt", "user"):
            for value in ("x" * 257, "x" * 1_000_000, "a\nb", "a\0b", "a\x7fb", "\x1b[31m", 5, [],
                          True):
                asker.refused(path, field, value)
            for value in ("", "x" * 256, "é \u2028 \U0001f600", "a/../b", "'; DROP TABLE x"):
                asker.ok(path, **{field: value})
        for value in ({"k" * 65: "v"}, {"k": "v" * 513}, {"k": 5}, {"k": None}, {"k": {}}, "x", [],
                      {f"k{idx}": "v" for idx in range(17)}):
            asker.refused(path, "metadata", value)
        asker.ok(path, metadata={f"k{idx}": "v" * 512 for idx in range(16)})


def test_P22_deadlines(asker, slow):
    for value in ("0", "-1", "1e3", "1.5", "abc", "86400001", str(10 ** 12), str(2 ** 64), "0x10",
                  "10 ms", "+5", "Thu, 01 Jan 1970 00:00:00 GMT"):
        answer = asker.post(COMPLETIONS, BASE[COMPLETIONS], {"x-request-timeout-ms": value})
        assert answer.status == 400, value
        assert answer.error["param"] == "x-request-timeout-ms"
    for value in ("86400000", "60000", ""):
        headers = {"x-request-timeout-ms": value}
        assert asker.post(COMPLETIONS, BASE[COMPLETIONS], headers).status == 200
    body = {"prompt": "Once", "max_tokens": 400, "ignore_eos": True}
    with Client(slow) as client:
        answer = client.post(COMPLETIONS, body, {"x-request-timeout-ms": "1"})
        assert answer.status == 504 and answer.error["code"] == "deadline_exceeded"
        assert "retry-after" not in answer.headers
        answer = client.post(COMPLETIONS, body, {"x-request-timeout-ms": "300"})
        assert answer.status == 504
        stream = client.stream(COMPLETIONS, body, {"x-request-timeout-ms": "500"})
        assert stream.error["code"] == "deadline_exceeded" and stream.text
