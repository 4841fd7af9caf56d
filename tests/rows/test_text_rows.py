"""Rows T: text that is hostile to tokenizers, templates, stop strings and decoders, live."""

import json
import random

import pytest

from live_server import stories_with_template
from row_tools import Client, RowServer, Row, Stream

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
BYTE_0 = 3  # id of the byte token <0x00>; the others follow
EOS = 2
SPECIALS = ("<s>", "</s>", "<unk>")

TEMPLATE = """{{ bos_token }}{% set ns = namespace(s='') %}{% for m in messages %}
{%- if m.content == 'raise' %}{{ raise_exception('roles must alternate') }}{% endif %}
{%- if m.content == 'undefined' %}{{ nothing.at_all }}{% endif %}
{%- if m.content == 'type' %}{{ 1 + 'x' }}{% endif %}
{%- if m.content == 'index' %}{{ m.content[10 ** 30] }}{{ messages[99].content }}{% endif %}
{%- if m.content == 'loop' %}{% for i in range(10 ** 9) %}{% set ns.s = i %}{% endfor %}{% endif %}
{%- if m.content == 'nest' %}{% for i in range(9999) %}{% for k in range(9999) %}{% set ns.s = k %}
{%- endfor %}{% endfor %}{% endif %}
{%- if m.content == 'bomb' %}{{ 'x' * 10 ** 10 }}{% endif %}
{%- if m.content == 'output' %}{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}{% endif %}
{%- if m.content.startswith('square') %}{% for c in m.content %}{% set ns.s = ns.s + m.content %}
{%- endfor %}{{ ns.s | length }}{% endif %}
{%- if m.role == 'system' and not loop.first %}{{ raise_exception('system comes first') }}{% endif %}
{%- if m.role == 'assistant' and loop.last %}{{ raise_exception('assistant is last') }}{% endif %}
{{- m.role }}: {{ m.content }}
{% endfor %}assistant:"""


@pytest.fixture(scope="module")
def strict_row(tmp_path_factory):
    """A server whose chat template refuses and explodes when it is asked to."""
    folder = stories_with_template(tmp_path_factory.mktemp("strict") / "stories")
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "chat_template": TEMPLATE}))
    with RowServer(folder, tmp_path_factory.mktemp("strict-server"), "-t", "1") as server:
        yield Row(server, victim_tokens=160)


@pytest.fixture
def strict(strict_row):
    with strict_row.unharmed() as server, Client(server) as client:
        yield client


@pytest.fixture
def client(server):
    with Client(server) as client:
        yield client


def refused(client, content, code="template_error", **extra):
    answer = client.post(CHAT, {"messages": content if isinstance(content, list) else [
        {"role": "user", "content": content}], "max_tokens": 1, **extra})
    assert answer.status == 400, (str(content)[:80], answer.body[:300])
    assert answer.error["code"] == code, answer.error
    assert len(answer.body) < 2000
    return answer.error


ONE_SORT = ["a", "^", "_", ".", " ", "\n", "(", "0", "漢", "\u0301", "\u200d", "\U0001f600", "é",
            "\u00a0", "<", "\0", "aA", "a ", "\r\n", "'s"]


def test_T1_a_megabyte_of_one_sort(client):
    for text in ONE_SORT:
        content = text * ((1 << 20) // len(text.encode()))
        answer = client.post("/tokenize", {"content": content})
        assert answer.status == 200, (text, answer.body[:200])
        ids = answer.json()["tokens"]
        assert 1000 < len(ids) <= len(content.encode()) + 1
    for content in ("a" * (1 << 20), "漢" * (1 << 18)):
        answer = client.post(COMPLETIONS, {"prompt": content, "max_tokens": 1})
        assert answer.error["code"] == "context_length_exceeded"
    # The bytes are limited before anything is tokenised.
    for body in ({"prompt": "a" * ((4 << 20) + 1)}, {"content": "a" * ((4 << 20) + 1)}):
        assert client.post("/tokenize", body).status == 413
    messages = [{"role": "user", "content": "a" * (1 << 20)}] * 5
    assert client.post(CHAT, {"messages": messages}).status in (400, 413)


def random_text(rng, length):
    planes = [(0x20, 0x7f), (0, 0x20), (0x80, 0x800), (0x800, 0xd800), (0xe000, 0x10000),
              (0x10000, 0x20000), (0x20000, 0x110000)]
    return "".join(chr(rng.randrange(*rng.choice(planes))) for _ in range(length))


def test_T2_any_valid_text_comes_back(client):
    rng = random.Random(4)
    for _ in range(300):
        text = random_text(rng, rng.randrange(1, 60))
        body = {"content": text, "parse_special": False}
        ids = client.post("/tokenize", body).json()["tokens"]
        assert client.post("/detokenize", {"tokens": ids}).json()["content"] == text, text


def spelled(text):
    return [text, f"a{text}b", text * 3, f"{text[0]}{text}", f" {text} ", f"\u200b{text}"]


def test_T3_special_tokens_that_a_user_spells_are_ordinary_text(client):
    messages = [{"role": "user", "content": "x"}]
    plain = client.post(CHAT, {"messages": messages, "max_tokens": 1,
                               "return_token_ids": True}).json()
    marks = [each for each in plain["prompt_token_ids"] if each < BYTE_0]
    texts = [each for special in SPECIALS for each in spelled(special)]
    texts += ["".join(SPECIALS), "<<s>s>", "<s</s>>", "\ufdd0<s>\ufdd1", "\ufdd0", "\ufdd2</s>"]
    for text in texts:
        for message in ({"role": "user", "content": text},
                        {"role": "user", "content": [{"type": "text", "text": text[:2]},
                                                     {"type": "text", "text": text[2:]}]},
                        {"role": "system", "content": text}, {"role": "assistant", "content": text},
                        {"role": "tool", "content": text, "tool_call_id": text},
                        {"role": "user", "content": "x", "name": text}):
            body = {"messages": [message, *messages], "max_tokens": 1, "return_token_ids": True}
            found = client.post(CHAT, body).json()["prompt_token_ids"]
            assert [each for each in found if each < BYTE_0] == marks, message
    # A raw prompt is the caller's own: there they count as what they spell.
    ids = client.post("/tokenize", {"prompt": "a</s>b", "add_special_tokens": False}).json()
    assert EOS in ids["tokens"]


def test_T5_what_a_template_refuses_is_a_template_error(strict):
    for content in ("raise", "undefined", "type", "index"):
        refused(strict, content)
    assert "roles must alternate" in refused(strict, "raise")["message"]
    user, system = {"role": "user", "content": "x"}, {"role": "system", "content": "x"}
    assistant = {"role": "assistant", "content": "x"}
    refused(strict, [user, system])
    refused(strict, [user, assistant])
    for messages in ([system, user], [user, assistant, user]):
        body = {"messages": messages, "max_tokens": 1}
        assert strict.post(CHAT, body).status == 200
        assert strict.post("/apply-template", body).status == 200
    answer = strict.post("/apply-template", {"messages": [user, system]})
    assert answer.status == 400 and answer.error["code"] == "template_error"


def test_T6_templates_that_run_away_end_with_an_error(strict):
    for content in ("loop", "nest", "bomb", "output", "square" + "x" * 100_000):
        refused(strict, content)
    # Many at once do not keep others from being served.
    answers = [strict.post(CHAT, {"messages": [{"role": "user", "content": "loop"}]}).status
               for _ in range(5)]
    assert answers == [400] * 5


def test_T7_templates_of_requests_are_refused(client):
    for template in ("{{ messages }}", "{% for i in range(10**9) %}{% endfor %}", "", 5, {}):
        error = refused(client, "x", "unsupported_parameter", chat_template=template)
        assert error["param"] == "chat_template"
    for kwargs in ({"a": 1}, {"tokenize": True}, {"messages": []}):
        error = refused(client, "x", "unsupported_parameter", chat_template_kwargs=kwargs)
        assert error["param"] == "chat_template_kwargs"
    refused(client, "x", None, chat_template_kwargs="x")
    answer = client.post(CHAT, {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1,
                                "chat_template_kwargs": {}, "chat_template": None})
    assert answer.status == 200


def both_ways(client, body):
    """(text, ids, finish reason) of an answer, the same streamed and not."""
    body = {"prompt": "Once", "return_token_ids": True, **body}
    choice = client.post(COMPLETIONS, body).json()["choices"][0]
    whole = choice["text"], choice["token_ids"], choice["finish_reason"]
    stream = client.stream(COMPLETIONS, body)
    assert (stream.text, stream.ids, stream.finish) == whole
    return whole


def test_T8_a_character_cut_off_by_the_length_is_one_replacement_at_the_end(client):
    for lead, num_bytes in ((0xF0, 4), (0xE6, 3), (0xC3, 2)):
        text, ids, finish = both_ways(client, {
            "max_tokens": 1, "temperature": 0, "allowed_token_ids": [BYTE_0 + lead]})
        assert (text, ids, finish) == ("\ufffd", [BYTE_0 + lead], "length"), num_bytes


BYTE_SETS = [
    [0xF0, 0x9F, 0x98, 0x80], [0xE6, 0xBC, 0xA2], [0xC3, 0xA9], [0x80], [0xC0, 0xAF],
    [0xED, 0xA0, 0x80, 0xBF], [0xF4, 0x90, 0x8F, 0x80], [0xF5], [0xFF, 0xFE], [0xE0, 0x80, 0xA0],
    [0xF0, 0x8F, 0x90, 0x80], [0x00, 0x0A, 0x22, 0x5C, 0x7F], [0x41, 0xF0, 0x9F, 0x98, 0x80],
    list(range(256)), list(range(0x80, 0x100))]


def test_T9_any_bytes_a_model_makes_are_valid_text(client):
    for allowed in BYTE_SETS:
        for seed in range(4):
            text, ids, _ = both_ways(client, {
                "max_tokens": 60, "temperature": 100, "seed": seed,
                "allowed_token_ids": [BYTE_0 + each for each in allowed]})
            made = bytes(each - BYTE_0 for each in ids)
            assert len(made) == 60
            assert text == made.decode("utf-8", "replace"), made


STORY = {"max_tokens": 120, "temperature": 0, "ignore_eos": True}


def test_T10_text_ends_before_the_first_stop_string(client):
    full, ids, _ = both_ways(client, STORY)
    assert len(full) > 100
    rng = random.Random(10)
    for _ in range(40):
        at = rng.randrange(len(full) - 20)
        stop = full[at:at + rng.randrange(1, 20)]
        others = [stop + "?", "zzz", stop[:-1] + "\u2603"]
        stops = rng.sample([stop, *others], 4)
        text, some_ids, finish = both_ways(client, {**STORY, "stop": stops})
        assert text == full[:full.index(stop)], stop
        assert finish == "stop" and ids[:len(some_ids)] == some_ids
        body = {"prompt": "Once", **STORY, "stop": stop, "logprobs": 2, "return_token_ids": True,
                "include_stop_str_in_output": True}
        choice = client.post(COMPLETIONS, body).json()["choices"][0]
        assert choice["text"] == full[:full.index(stop) + len(stop)]
        assert len(choice["logprobs"]["tokens"]) == len(choice["token_ids"])
        assert choice["token_ids"] == some_ids
    # At position 0 there is no text at all, and streams keep quiet about it, too.
    text, _, finish = both_ways(client, {**STORY, "stop": full[:3]})
    assert (text, finish) == ("", "stop")


def test_T10_a_stop_string_of_characters_that_take_several_tokens(client):
    for character in ("😀", "漢", "é"):
        allowed = [BYTE_0 + each for each in character.encode()]
        for seed in range(6):
            body = {"max_tokens": 80, "temperature": 100, "seed": seed,
                    "allowed_token_ids": allowed}
            full, _, _ = both_ways(client, body)
            for stop in (character, character * 2):
                text, _, finish = both_ways(client, {**body, "stop": stop})
                at = full.find(stop)
                assert text == (full if at < 0 else full[:at])
                assert finish == ("length" if at < 0 else "stop")


def test_T11_a_held_beginning_of_a_stop_string_is_flushed_at_the_end(client):
    full, ids, _ = both_ways(client, STORY)
    for num_tokens in range(1, 40):
        prefix, _, _ = both_ways(client, {**STORY, "max_tokens": num_tokens})
        # The text ends within what would be a stop string.
        stop = prefix[-3:] + "\u2603"
        text, some_ids, finish = both_ways(client, {**STORY, "max_tokens": num_tokens,
                                                    "stop": stop})
        assert (text, some_ids, finish) == (prefix, ids[:num_tokens], "length")
    # The same where the model ends the answer.
    end = {"max_tokens": 20, "temperature": 0, "logit_bias": {str(EOS): 100}}
    assert both_ways(client, {**end, "stop": "x\u2603"})[0] == ""
    held = {"max_tokens": 30, "temperature": 0, "ignore_eos": False}
    prefix, some_ids, _ = both_ways(client, {**held, "stop_token_ids": [ids[20]]})
    text, _, finish = both_ways(client, {**held, "stop_token_ids": [ids[20]],
                                         "stop": prefix[-2:] + "\u2603"})
    assert (text, finish) == (prefix, "stop")
    assert some_ids == ids[:len(some_ids)]


def test_T13_the_end_token_and_who_ignores_it(client):
    always = {"max_tokens": 5, "temperature": 0, "logit_bias": {str(EOS): 100}}
    cases = [
        ({}, ("", [EOS], "stop")),
        ({"ignore_eos": True}, ("", [EOS] * 5, "length")),
        ({"ignore_eos": True, "stop_token_ids": [EOS]}, ("", [EOS], "stop")),
        ({"stop_token_ids": [EOS]}, ("", [EOS], "stop")),
        ({"ignore_eos": True, "skip_special_tokens": False}, ("</s>" * 5, [EOS] * 5, "length")),
    ]
    for extra, want in cases:
        assert both_ways(client, {**always, **extra}) == want, extra
    _, ids, finish = both_ways(client, {**always, "min_tokens": 3})
    assert finish == "stop" and EOS not in ids[:3] and len(ids) == 4
    stop_id = both_ways(client, {**STORY, "max_tokens": 9})[1][-1]
    _, ids, finish = both_ways(client, {**STORY, "max_tokens": 9, "stop_token_ids": [stop_id]})
    assert ids[-1] == stop_id and finish == "stop"


def test_T13_streams_of_chat_end_in_the_same_way(client):
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 6, "temperature": 0,
            "return_token_ids": True}
    for extra, want in (({"logit_bias": {str(EOS): 100}}, "stop"), ({"ignore_eos": True}, "length")):
        stream = Stream(client.events(CHAT, {**body, **extra}))
        choice = client.post(CHAT, {**body, **extra}).json()["choices"][0]
        assert stream.finish == choice["finish_reason"] == want
        assert stream.text == (choice["message"]["content"] or "")
