"""serve --trace: what the engine's threads did when, for a trace viewer."""

import json
import urllib.request

from live_server import LiveServer, stories_with_template


def test_a_trace_shows_the_parts_of_every_step(tmp_path):
    trace = tmp_path / "trace.json"
    model = stories_with_template(tmp_path / "stories")
    with LiveServer(model, tmp_path / "server", "--trace", trace) as server:
        request = urllib.request.Request(
            server.api + "/completions", headers={"content-type": "application/json"},
            data=json.dumps({"prompt": "Once", "max_tokens": 9, "ignore_eos": True}).encode())
        with urllib.request.urlopen(request, timeout=30) as response:
            assert response.status == 200
        assert server.stop() == 0
    events = json.loads(trace.read_text())
    lanes = {event["tid"]: event["args"]["name"] for event in events
             if event["name"] == "thread_name"}
    engine = [event for event in events if lanes.get(event["tid"]) == "engine"
              and event["ph"] == "X"]
    assert {event["name"] for event in engine} >= {"schedule", "forward", "sample", "emit"}
    forwards = [event for event in engine if event["name"] == "forward"]
    assert len(forwards) >= 9 and all(event["args"]["tokens"] >= 1 for event in forwards)
    open_ends = []  # ranges of one thread nest
    for event in sorted(engine, key=lambda event: (event["ts"], -event["dur"])):
        end = event["ts"] + event["dur"]
        while open_ends and open_ends[-1] <= event["ts"] + 0.001:
            open_ends.pop()
        assert not open_ends or end <= open_ends[-1] + 0.001, event
        open_ends.append(end)
