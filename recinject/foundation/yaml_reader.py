"""YAML as people mean it: ``1e-4`` is a number and ``no`` is a word, as in YAML 1.2."""

from __future__ import annotations

import re
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the numbers and truth values of YAML 1.2's core schema."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":float"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.inf$|^\.nan$"),
    list("-+.0123456789"),
)


def load_yaml(text: str) -> Any:
    """Read one YAML document, without ever running code.

    Raises:
        yaml.YAMLError: the text is not YAML.

    Examples:
        >>> load_yaml("{learning_rate: 1e-4, save_strategy: no, bf16: true, steps: 10}")
        {'learning_rate': 0.0001, 'save_strategy': 'no', 'bf16': True, 'steps': 10}
    """
    return yaml.load(text, Loader=_Loader)
