"""The service for assistants: the Model Context Protocol over standard input and output.

One JSON-RPC message a line. An assistant can search items, ask for lists and have slates put in
order; what it gets back names items of the catalogue alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from pydantic import ValidationError

import recinject
from recinject.foundation.errors import RecinjectError
from recinject.serving.batching import QueueFullError
from recinject.serving.forms import RankRequest, RecommendRequest, SearchRequest
from recinject.serving.service import Service

VERSION = "2025-06-18"
_PARSE, _REQUEST, _METHOD, _PARAMS, _INSIDE = -32700, -32600, -32601, -32602, -32603


class Assistant:
    """Answers the messages of an assistant from a service.

    Args:
        service: what is asked; it is not closed.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._tools: dict[str, tuple[type[Any], str, Callable[[Any], Any]]] = {
            "search_items": (
                SearchRequest,
                "Find items of the catalogue by a part of their title, or by their id.",
                self._search,
            ),
            "recommend": (
                RecommendRequest,
                "Recommend items of the catalogue to somebody who liked others, oldest first.",
                service.recommend,
            ),
            "rank": (
                RankRequest,
                "Put items in the order in which somebody who liked others chooses them next.",
                service.rank,
            ),
        }

    def answer(self, line: str) -> str | None:
        """Answer one message; None to a notification, which wants no answer."""
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            return _error(None, _PARSE, "the line is no JSON")
        if not isinstance(message, dict) or not isinstance(message.get("method"), str):
            return _error(None, _REQUEST, "the message has no method")
        if "id" not in message:
            return None
        number, params = message["id"], message.get("params") or {}
        if not isinstance(params, dict):
            return _error(number, _PARAMS, "params are no object")
        try:
            return self._result(number, message["method"], params)
        except Exception as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            return _error(number, _INSIDE, "something went wrong inside")

    def _result(self, number: Any, method: str, params: Mapping[str, Any]) -> str:
        if method == "initialize":
            about = {"name": "recinject", "version": recinject.__version__}
            result: dict[str, Any] = {"protocolVersion": VERSION, "serverInfo": about}
            return _reply(number, result | {"capabilities": {"tools": {}}})
        if method == "ping":
            return _reply(number, {})
        if method == "tools/list":
            tools = [
                {"name": name, "description": about, "inputSchema": form.model_json_schema()}
                for name, (form, about, _) in self._tools.items()
            ]
            return _reply(number, {"tools": tools})
        if method != "tools/call":
            return _error(number, _METHOD, "no such method")
        tool = self._tools.get(str(params.get("name")))
        if tool is None:
            return _error(number, _PARAMS, f"no such tool; there are {', '.join(self._tools)}")
        form, _, ask = tool
        try:
            found = ask(form.model_validate(params.get("arguments") or {}))
        except (RecinjectError, ValidationError, QueueFullError, TimeoutError) as error:
            return _reply(number, {"content": [_text(_told(error))], "isError": True})
        return _reply(number, {"content": [_text(json.dumps(found, ensure_ascii=False))]})

    def _search(self, asked: SearchRequest) -> dict[str, Any]:
        return {"items": self._service.shop(asked.run).search(asked.query, asked.limit)}


def _told(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))[:80]}: {first['msg']}"
    return str(error) or "too many requests wait, or the answer took too long"


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _reply(number: Any, result: Mapping[str, Any]) -> str:
    return json.dumps({"jsonrpc": "2.0", "id": number, "result": result})


def _error(number: Any, code: int, message: str) -> str:
    return json.dumps({"jsonrpc": "2.0", "id": number, "error": {"code": code, "message": message}})


def talk(service: Service, source: TextIO | None = None, sink: TextIO | None = None) -> None:
    """Answer messages, a line each, until the input ends; then close the service."""
    assistant, out = Assistant(service), sink or sys.stdout
    for line in source or sys.stdin:
        if line.strip() and (answer := assistant.answer(line)) is not None:
            out.write(answer + "\n")
            out.flush()
    service.close()
