"""slipstream tokenize, detokenize, render: a line in, a line out."""

import json
import subprocess

import pytest
from conftest import shared_path


def lines(values):
    return "".join(json.dumps(each) + "\n" for each in values)


@pytest.fixture(scope="module")
def golden():
    return json.loads(shared_path("tokenizers", "golden.json").read_text())


@pytest.mark.parametrize("name", ["stories260K", "babyllama105"])
def test_golden_ids_with_and_without_special_tokens(slipstream, golden, name):
    folder = shared_path("models", name, "hf")
    cases = golden["encodings"][name]
    plain = slipstream.run("tokenize", "-m", folder, "--no-add-special",
                           stdin=lines(golden["tests"]))
    special = slipstream.run("tokenize", "-m", folder, stdin=lines(golden["tests"]))
    assert plain.code == special.code == 0
    assert plain.lines == [each["ids"] for each in cases]
    assert special.lines == [each["ids_special"] for each in cases]


@pytest.mark.parametrize("name", ["stories260K", "babyllama105"])
def test_golden_decoding(slipstream, golden, name):
    cases = golden["encodings"][name]
    result = slipstream.run("detokenize", "-m", shared_path("models", name, "hf"),
                            stdin=lines(each["ids"] for each in cases))
    assert result.code == 0, result.err
    assert result.lines == [each["decoded"] for each in cases]


def test_a_gguf_file_and_a_tokenizer_file_alone_serve_as_model(slipstream, stories, stories_hf):
    texts = lines(["Once upon a time", "  two  spaces", ""])
    by_model = [slipstream.run("tokenize", "-m", model, stdin=texts)
                for model in (stories, stories_hf, stories_hf / "tokenizer.json")]
    assert [each.code for each in by_model] == [0, 0, 0], [each.err for each in by_model]
    assert by_model[0].out == by_model[1].out == by_model[2].out


def test_special_tokens_in_the_text_are_parsed_unless_told_not_to(slipstream, stories_hf):
    parsed = slipstream.run("tokenize", "-m", stories_hf, "--no-add-special",
                            stdin=lines(["</s>"])).lines[0]
    plain = slipstream.run("tokenize", "-m", stories_hf, "--no-add-special", "--no-parse-special",
                           stdin=lines(["</s>"])).lines[0]
    assert 2 in parsed and 2 not in plain


def test_bad_lines_keep_lines_in_step(slipstream, stories_hf):
    result = slipstream.run("tokenize", "-m", stories_hf, stdin='"Once"\nnot json\n[1]\n"Once"\n')
    assert result.code == 1
    first, second, third, fourth = result.lines
    assert first == fourth and second is third is None
    assert result.err.count("\n") == 2
    assert "line 2" in result.err and "line 3" in result.err
    result = slipstream.run("detokenize", "-m", stories_hf, stdin='[410]\n[999999]\n"x"\n')
    assert result.code == 1
    assert result.lines[1:] == [None, None]


def test_an_answer_comes_before_the_next_line_is_sent(slipstream, stories_hf):
    with slipstream.start("tokenize", "-m", str(stories_hf), stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as process:
        for _ in range(2):
            process.stdin.write(b'"Once"\n')
            process.stdin.flush()
            assert json.loads(process.stdout.readline())[0] == 1
        process.stdin.close()
        assert process.wait(timeout=30) == 0


def test_golden_templates(slipstream):
    cases = json.loads(shared_path("templates", "golden.json").read_text())
    name = "chujiezheng__llama-3-instruct.jinja"
    cases = [each for each in cases if each["template"] == name]
    result = slipstream.run("render", "--template", shared_path("templates", name),
                            stdin=lines({key: each.get(key) for key in
                                         ("messages", "tools", "variables", "now") if key in each}
                                        for each in cases))
    assert result.code == 0, result.err
    assert len(result.lines) == len(cases) > 5
    for case, got in zip(cases, result.lines):
        if "expected" in case:
            assert got == {"text": case["expected"]}
        else:
            assert set(got) == {"error", "error_type"}


def test_a_models_template_sees_the_models_tokens(slipstream, stories_hf, tmp_path, chat_model):
    result = slipstream.run("render", "-m", chat_model,
                            stdin=lines([{"messages": [{"role": "user", "content": "Hi"}]}]))
    assert result.lines == [{"text": "user: Hi\nassistant:"}]
    template = tmp_path / "t.jinja"
    template.write_text("{{ bos_token }}|{{ x }}")
    result = slipstream.run("render", "--template", template,
                            stdin=lines([{"messages": [], "variables": {"x": 3}}]))
    assert result.lines == [{"text": "|3"}]


def test_render_reports_errors_line_by_line(slipstream, tmp_path):
    template = tmp_path / "t.jinja"
    template.write_text("{% if messages %}{{ messages[0].content }}{% else %}"
                        "{{ raise_exception('no messages') }}{% endif %}")
    result = slipstream.run("render", "--template", template, stdin=lines(
        [{"messages": []}, {"messages": [{"role": "user", "content": "é"}]}]) + "{\n")
    assert result.code == 0
    assert result.lines[0]["error_type"] == "TemplateError"
    assert "no messages" in result.lines[0]["error"]
    assert result.lines[1] == {"text": "é"}
    assert result.lines[2]["error_type"] == "JSONDecodeError"


def test_a_template_that_does_not_end_is_ended(slipstream, tmp_path):
    template = tmp_path / "t.jinja"
    template.write_text("{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}"
                        "{% endfor %}")
    result = slipstream.run("render", "--template", template, stdin=lines([{"messages": []}]))
    assert "error" in result.lines[0]


def test_templates_that_cannot_be_used(slipstream, tmp_path, stories_hf):
    template = tmp_path / "t.jinja"
    template.write_text("{% if %}")
    slipstream.refuses(3, "render", "--template", template, says="TemplateSyntaxError")
    slipstream.refuses(2, "render", "--template", tmp_path / "none", says="none")
    slipstream.refuses(2, "render", "-m", stories_hf, says="--template")
