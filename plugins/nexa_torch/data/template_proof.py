"""Proves of a chat template that messages' contents are only ever printed, by reading its syntax tree.

The rendering of such a template is fixed text around the contents, the same for every conversation with the same
sequence of roles, so that it need not be rendered again for each. What can't be proven is rendered.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from jinja2 import TemplateSyntaxError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

_MESSAGES = "messages"
_PRINTING = (nodes.Add, nodes.Concat)


@dataclass(frozen=True)
class Proof:
    """What is known of a template: contents are only printed, and whether space around them may be cut off."""

    trims: bool


def prove(template: str) -> Proof | None:
    """A proof that the template only prints contents; None where there is none."""
    try:
        tree = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"]).parse(template)
    except TemplateSyntaxError:
        return None
    parents = {id(child): (node, child) for node in _walk(tree) for child in node.iter_child_nodes()}
    loops = [loop for loop in tree.find_all(nodes.For) if _is_messages(loop.iter)]
    variables = {loop.target.name for loop in loops if isinstance(loop.target, nodes.Name)}
    trims = False
    for node in _walk(tree):
        parent = parents[id(node)][0] if id(node) in parents else None
        if isinstance(node, nodes.Call) and not _is_name(node.node, {"raise_exception"}):
            return None
        if _is_name(node, {_MESSAGES, *variables}) and not _only_looked_into(node, parent, loops):
            return None
        if _is_message(node, variables) and not isinstance(node, nodes.Name) and _field(parent) is None:
            return None
        if _field(node) == "content" and _is_message(getattr(node, "node", None), variables):
            printed = _printed(node, parents)
            if printed is None:
                return None
            trims |= printed
    return Proof(trims=trims)


def _walk(node: nodes.Node) -> Iterator[nodes.Node]:
    yield node
    for child in node.iter_child_nodes():
        yield from _walk(child)


def _is_name(node: nodes.Node | None, names: set[str]) -> bool:
    return isinstance(node, nodes.Name) and node.name in names


def _is_messages(node: nodes.Node) -> bool:
    """Whether an expression is the conversation or a stretch of it."""
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
        node = node.node
    return _is_name(node, {_MESSAGES})


def _is_message(node: nodes.Node | None, variables: set[str]) -> bool:
    """Whether an expression is one message: a loop's variable, or `messages[0]`."""
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, (nodes.Const, nodes.Neg)):
        return _is_name(node.node, {_MESSAGES})
    return _is_name(node, variables)


def _field(node: nodes.Node | None) -> str | None:
    """The name in `x.name` and `x['name']`, if it is a message's role or content."""
    name = None
    if isinstance(node, nodes.Getattr):
        name = node.attr
    elif isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
        name = node.arg.value
    return name if name in ("role", "content") else None


def _only_looked_into(node: nodes.Node, parent: nodes.Node | None, loops: list[nodes.For]) -> bool:
    """Whether a use of the conversation or a message can't carry contents elsewhere."""
    if any(node is loop.target for loop in loops):
        return True
    if not isinstance(node, nodes.Name) or node.ctx != "load":
        return False
    if node.name != _MESSAGES:
        return _field(parent) is not None
    if isinstance(parent, nodes.For):
        return parent.iter is node
    if isinstance(parent, nodes.Filter):
        return parent.name in ("length", "count")
    if isinstance(parent, nodes.Getitem):
        return _is_message(parent, set()) or (
            isinstance(parent.arg, nodes.Slice) and any(loop.iter is parent for loop in loops)
        )
    return False


def _printed(node: nodes.Node, parents: dict[int, tuple[nodes.Node, nodes.Node]]) -> bool | None:
    """Whether a content is cut on its way to being printed; None where it goes anywhere else."""
    trims = False
    while True:
        parent = parents[id(node)][0]
        if isinstance(parent, nodes.Output):
            return trims
        if isinstance(parent, nodes.Filter) and parent.name == "trim" and not parent.args and parent.node is node:
            trims = True
        elif not isinstance(parent, _PRINTING):
            return None
        node = parent
