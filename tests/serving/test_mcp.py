import io
import json
import subprocess
import sys

import pytest

from recinject.serving.mcp import Assistant, talk


@pytest.fixture
def call(service):
    """Call a method; return the whole answer."""
    assistant = Assistant(service)

    def call(method, **params):
        message = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}
        answer = json.loads(assistant.answer(json.dumps(message)))
        assert answer["id"] == 7 and answer["jsonrpc"] == "2.0"
        return answer

    return call


@pytest.fixture
def use(call):
    """Use a tool; return what it says, and whether that is an error."""

    def use(name, **arguments):
        result = call("tools/call", name=name, arguments=arguments)["result"]
        (content,) = result["content"]
        return content["text"], result.get("isError", False)

    return use


def test_an_assistant_is_told_what_it_may_ask(call):
    about = call("initialize", protocolVersion="x")["result"]
    assert about["capabilities"] == {"tools": {}} and about["serverInfo"]["name"] == "recinject"
    tools = call("tools/list")["result"]["tools"]
    assert [tool["name"] for tool in tools] == ["search_items", "recommend", "rank"]
    assert all(tool["inputSchema"]["type"] == "object" for tool in tools)
    assert call("ping")["result"] == {}


def test_it_gets_items_that_exist(use, served_run):
    titles, model = served_run.data.catalog.titles, served_run.model
    found = json.loads(use("search_items", query=titles[3][:8])[0])["items"]
    assert titles[3] in [item["title"] for item in found]
    listed = json.loads(use("recommend", liked=titles[:3], k=4)[0])["items"]
    own = model.recommend([titles[:3]], k=4)["item_id"].tolist()
    assert [item["item_id"] for item in listed] == own
    ranked = json.loads(use("rank", liked=titles[:3], items=titles[4:8])[0])["items"]
    assert sorted(item["title"] for item in ranked) == sorted(titles[4:8])


def test_what_cannot_be_is_an_error_that_it_can_read(use, call):
    text, failed = use("recommend", liked=["Something that nobody sells"])
    assert failed and "no item has the title" in text
    assert use("recommend", liked=[]) == (use("recommend", liked=[])[0], True)
    assert use("recommend", liked=["a"], k="many")[1]
    assert call("tools/call", name="rm")["error"]["code"] == -32602
    assert call("nothing")["error"]["code"] == -32601


@pytest.mark.parametrize(
    "line",
    ["", "{", "[]", "3", '{"id": 1}', '{"id": 1, "method": "ping", "params": 3}', "[" * 9999],
)
def test_a_hostile_line_gets_an_error(service, line):
    assert json.loads(Assistant(service).answer(line))["error"]["code"] < 0


def test_a_notification_gets_no_answer_and_the_end_is_the_end(shop):
    from recinject.serving.service import Service

    service, out = Service([shop]), io.StringIO()
    lines = '{"jsonrpc": "2.0", "method": "notifications/initialized"}\n\n'
    talk(service, io.StringIO(lines + '{"id": "a", "method": "ping"}\n'), out)
    assert [json.loads(line) for line in out.getvalue().splitlines()] == [
        {"jsonrpc": "2.0", "id": "a", "result": {}}
    ]


def test_the_command_talks(served_run):
    command = [sys.executable, "-m", "recinject", "serve", str(served_run.recipe.folder), "--mcp"]
    asked = '{"id": 1, "method": "tools/list"}\n'
    ended = subprocess.run(command, input=asked, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    (line,) = ended.stdout.splitlines()
    assert json.loads(line)["result"]["tools"]
