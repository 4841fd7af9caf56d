"""slipstream chat through a pipe: the conversation, its commands, and Ctrl-C."""

import json
import signal
import subprocess
import time

FLAGS = ("--temperature", "0", "-n", "12")


def chat(slipstream, model, *lines, flags=FLAGS):
    return slipstream.run("chat", model, *flags, stdin="".join(each + "\n" for each in lines))


def test_each_line_gets_an_answer_until_the_end(slipstream, chat_model):
    result = chat(slipstream, chat_model, "Hi", "And then?")
    assert result.code == 0, result.err
    assert result.out.strip()
    assert chat(slipstream, chat_model, "Hi", "/exit", "never").out == \
        chat(slipstream, chat_model, "Hi").out


def test_an_answer_continues_the_conversation(slipstream, chat_model, tmp_path):
    saved = tmp_path / "chat.json"
    result = chat(slipstream, chat_model, "/system Be kind", "Hi", "More", f"/save {saved}")
    assert result.code == 0, result.err
    messages = json.loads(saved.read_text())["messages"]
    assert [each["role"] for each in messages] == ["system", "user", "assistant", "user",
                                                   "assistant"]
    assert messages[0]["content"] == "Be kind" and messages[3]["content"] == "More"
    assert messages[2]["content"] + "\n" + messages[4]["content"] + "\n" == result.out
    loaded = chat(slipstream, chat_model, f"/load {saved}", "Again")
    direct = chat(slipstream, chat_model, "/system Be kind", "Hi", "More", "Again")
    assert direct.out.endswith(loaded.out) and loaded.out.strip()


def test_reset_forgets_the_conversation(slipstream, chat_model):
    once = chat(slipstream, chat_model, "Hi").out
    assert chat(slipstream, chat_model, "Hi", "/reset", "Hi").out == once + once


def test_set_changes_generation(slipstream, chat_model):
    result = chat(slipstream, chat_model, "/set max-tokens 3", "Hi", "/set max-tokens 0",
                  "/set no-such 1", "/set")
    assert len(result.out) < len(chat(slipstream, chat_model, "Hi").out)
    assert "must be from 1" in result.err and "'no-such' cannot be set" in result.err
    assert "/set temperature" in result.err


def test_help_and_stats(slipstream, chat_model):
    result = chat(slipstream, chat_model, "/help", "Hi", "/stats", "/nonsense")
    for command in ("/system", "/set", "/stats", "/save", "/load", "/reset", "/exit"):
        assert command in result.err
    assert "last answer: " in result.err and "generated tokens" in result.err
    assert "no command /nonsense" in result.err


def test_bad_lines_leave_the_conversation_going(slipstream, chat_model, tmp_path):
    once = chat(slipstream, chat_model, "Hi").out
    broken = tmp_path / "broken.json"
    broken.write_text('{"messages": [{"role": "robot"}]}')
    result = slipstream.run("chat", chat_model, *FLAGS, stdin=b"\xff\n" + (
        f"/load {broken}\n/load {tmp_path}/none\n/save {tmp_path}/no/where\n" + "x" * 5000 +
        "\nHi\n").encode())
    assert result.code == 0
    assert result.out == once
    assert result.err.count("error: ") == 5, result.err
    assert "robot" in result.err and "UTF-8" in result.err and "context" in result.err
    assert [each.name for each in tmp_path.iterdir()] == ["broken.json"]


def test_a_model_without_a_template_is_refused(slipstream, stories):
    slipstream.refuses(2, "chat", stories, says="no chat template")


def test_ctrl_c_at_the_prompt_needs_a_second_one(slipstream, chat_model):
    with slipstream.start("chat", str(chat_model), *FLAGS, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as process:
        process.stdin.write(b"Hi\n")
        process.stdin.flush()
        assert process.stdout.readline()  # it waits for the next line now
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130


def test_ctrl_c_stops_the_answer_not_the_program(slipstream, default_model):
    with slipstream.start("chat", "-m", default_model, "--ignore-eos", "--temperature", "0",
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(b"Count to a million.\n")
        process.stdin.flush()
        assert process.stdout.read(20)  # it is answering, and would for minutes
        process.send_signal(signal.SIGINT)
        process.stdin.write(b"/stats\n")
        process.stdin.flush()
        while b"interrupted" not in process.stderr.readline():
            assert process.poll() is None
        process.stdin.close()
        assert process.wait(timeout=30) == 0
