"""Values set in the text of ``params.yaml``: what nobody changed stays as it is, its comments with it."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.tokens import CommentToken

from regraft.tasks.settings.earlier_keys import list_old_names
from regraft.tasks.settings.knobs import ParamsError


def edit_text(text: str, assignments: Mapping[str, Any], path: Path) -> tuple[str, Any]:
    """Return the text of the file at ``path`` with ``section.key`` set to its value for each, and what it then says.

    Raises:
        ParamsError: If the text is not YAML.
    """
    editor = YAML()
    editor.width = 4096  # lines that nobody changed stay as they are
    try:
        document = editor.load(text) or CommentedMap()
    except YAMLError as error:
        raise ParamsError(f"{path} is not YAML: {error}") from error
    for key, value in assignments.items():
        *groups, name = key.split(".")
        _assign(document, groups, name, value, list_old_names(key))
    buffer = io.StringIO()
    editor.dump(document, buffer)
    return buffer.getvalue(), document


def _assign(group: Any, groups: list[str], name: str, value: Any, old_names: list[str]) -> None:
    tail = None
    for one in groups:
        if not isinstance(group.get(one), dict):
            tail = tail or _take_tail(group)
            group[one] = CommentedMap()
        group = group[one]
    for old in old_names:
        _rename(group, old, name)
    if name not in group:
        tail = tail or _take_tail(group)
        group[name] = _in_one_line(value)
        if tail is not None:
            group.ca.items[name] = [None, None, tail, None]
    elif group[name] != value:  # an equal one would cost the comment behind it for nothing
        group[name] = _in_one_line(value)


def _take_tail(group: Any) -> CommentToken | None:
    """Take the comment lines away that stand below the last value of ``group``: they belong to what follows it.

    ruamel keeps them with that value, so that a key added behind it would stand below the title of the next section.
    """
    last = next(reversed(group), None) if isinstance(group, CommentedMap) else len(group) - 1
    if last is None or last == -1:
        return None
    if isinstance(group[last], CommentedMap | CommentedSeq) and group[last] and not group[last].fa.flow_style():
        return _take_tail(group[last])
    place = 2 if isinstance(group, CommentedMap) else 0
    known = group.ca.items.get(last)
    token = known[place] if known else None
    if token is None:
        return None
    beside, _, below = token.value.partition("\n")
    if not below:
        return None
    known[place] = CommentToken(f"{beside}\n", token.start_mark, token.end_mark) if beside else None
    return CommentToken(f"\n{below}", token.start_mark, token.end_mark)


def _in_one_line(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    line = CommentedSeq(value)
    line.fa.set_flow_style()
    return line


def _rename(group: Any, old: str, new: str) -> None:
    if old not in group or new in group:
        group.pop(old, None)
        return
    place, comment = list(group).index(old), group.ca.items.get(old)
    group.insert(place, new, group.pop(old))
    group.ca.items.pop(old, None)
    if comment is not None:
        group.ca.items[new] = comment
