"""YAML 1.2, read by ruamel.yaml: ``010`` is ten, ``no`` and ``1:30`` are texts. An error is one line with its place."""

from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError

from unigrpo.core.errors import UserError, reading
from unigrpo.core.files import DEEPEST, check_tree, read_text


class _Plain(SafeConstructor):
    """Dates stay texts: no setting is one."""


_Plain.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_yaml_str)


class _Shallow(Composer):
    """Deep nesting is refused before it is parsed, which takes time in the square of it."""

    levels = -1

    def compose_node(self, parent: object, index: object) -> object:
        self.levels += 1
        if self.levels > DEEPEST + 1:
            raise ValueError(f"more than {DEEPEST} levels of nesting")
        node = super().compose_node(parent, index)
        self.levels -= 1
        return node


def read_yaml(path: str | Path) -> object:
    """The content of a YAML file. Raises UserError naming the file, and the line of what is not YAML, a key given twice
    or a tag; and for an anchor that contains itself, nesting as ``check_tree`` bounds it."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor, yaml.Composer = _Plain, _Shallow
    with reading(path, "a YAML file"):
        try:
            content = yaml.load(read_text(path))
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = f"line {mark.line + 1}: " if mark else ""
            raise UserError(f"{path}: {line}{(error.problem or 'not YAML').removeprefix('found ')}") from error
        check_tree(content, path)
    return content
