"""YAML in which nothing is replaced in silence: a key that stands twice is an error."""

from typing import Any

import yaml

from fastdistill_ray.errors import UserError

MERGE, BOOL, TEXT = (f"tag:yaml.org,2002:{kind}" for kind in ("merge", "bool", "str"))


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE:
                continue
            if key.tag == BOOL:  # YAML reads the name `on` as true
                key.tag = TEXT
            line = key.start_mark.line + 1
            if key.value in lines:
                raise UserError(
                    f"{key.value} stands twice, in line {lines[key.value]} and in line {line}; "
                    "keep one"
                )
            lines[key.value] = line
        return super().construct_mapping(node, deep)


def read_yaml(text: str) -> Any:
    """UserError, one line that says where, for what is no YAML or has a key twice."""
    try:
        return _unshared(yaml.load(text, _Loader), ())
    except yaml.YAMLError as error:
        raise UserError(f"not YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise UserError("not YAML that can be read: it is nested too deeply") from error


def _unshared(tree: Any, above: tuple[int, ...]) -> Any:
    """What YAML anchors make one object is several: an override changes one place only."""
    if id(tree) in above:
        raise UserError("an alias (*) stands inside of what it names itself; write it out")
    if isinstance(tree, dict):
        return {key: _unshared(value, (*above, id(tree))) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_unshared(value, (*above, id(tree))) for value in tree]
    return tree
