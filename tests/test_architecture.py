"""The rules of the house (docs/internals.md), held by machine over the syntax tree of every module of `src/dispatcher`.

A rule is a function from a module to the complaints about it. Each has a test that the sources keep it, and one that
it catches a seeded fault: a rule that cannot fail is no rule.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "dispatcher"

RANKS = ["errors", "model", "amqp", "brokers", "observe", "runtime", "testing", "ops"]
FACE = {"", "types", "__main__"}  # modules at the root that show the rest to users: above everything

MAX_MODULE_LINES = 450
MAX_FUNCTION_LINES = 60

# Where a distribution that is not in the standard library may be imported.
THIRD_PARTY = {
    "msgspec": ("",),
    "click": ("ops",),
    "cronsim": ("model.schedule",),
    "pytest": ("testing",),
    "watchfiles": ("ops",),
    "pysqlite3": ("brokers",),
}
OPTIONAL = {"pysqlite3", "watchfiles"}  # their import may wait until it is needed

SEAMS = {  # module and function -> what else is loaded when it is named (docs/decisions/0024-loading.md)
    ("brokers", "_sqlite"): {"dispatcher.brokers.sqlite"},
    ("brokers", "_memory"): {"dispatcher.brokers.memory"},
    ("brokers", "_rabbitmq"): {"dispatcher.amqp.tls", "dispatcher.amqp.url", "dispatcher.brokers.rabbitmq"},
    ("model.schedule", "_expression"): {"cronsim"},
    ("model.schedule", "_fitting"): {"cronsim"},
    ("model.schedule", "_zone"): {"zoneinfo"},
    ("ops.cli", "_version"): {"importlib"},
}
BY_NAME = {"", "ops.cli"}  # they load modules of ours by a name: what a user named of the package, and commands
BY_NAME |= {"ops.locate", "runtime.executors.targets"}  # and these the user's own

SETTLING = ("amqp", "brokers", "runtime.settle")  # who may ack and reject
PUBLISHING = (*SETTLING, "runtime.publisher", "runtime.server", "runtime.dead_letters", "testing", "ops")
PUBLISHING += ("runtime.app", "runtime.app_task", "runtime.sync")  # these hand tasks to the server
EXECUTORS = ("runtime.executors",)  # where user code runs: nothing there knows a broker
EXECUTION = ("runtime.execution",)  # prepares it, and may know a delivery as data
DATA_OF_BROKERS = {"Delivery", "Unsettled"}
ENVIRONMENT = ("runtime.settings", "ops.cli", "brokers.sqlite.failpoints")
PRINTING = ("ops",)
ROOT_LOGGER = ("ops", "observe.log_output")


@dataclass(frozen=True)
class Module:
    """`name` is what follows `dispatcher.`, empty for the package itself; `known` are all names there are."""

    name: str
    source: str
    is_package: bool = False
    known: frozenset[str] = frozenset()

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

    def within(self, places: tuple[str, ...]) -> bool:
        return any(place in ("", self.name) or self.name.startswith(place + ".") for place in places)


Rule = Callable[[Module], Iterator[str]]


def read_all() -> list[Module]:
    paths = sorted(SOURCE.rglob("*.py"))
    names = {path: ".".join(path.relative_to(SOURCE).with_suffix("").parts) for path in paths}
    names = {path: "" if name == "__init__" else name.removesuffix(".__init__") for path, name in names.items()}
    known = frozenset(names.values())
    return [
        Module(name, path.read_text(encoding="utf-8"), path.name == "__init__.py", known)
        for path, name in names.items()
    ]


MODULES = read_all()


# --- imports ------------------------------------------------------------------------------------------------------


def absolute(module: Module, node: ast.Import | ast.ImportFrom) -> list[str]:
    """The full names that an import statement names: `dispatcher.model.task`, `msgspec`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        parts = ["dispatcher", *filter(None, module.name.split("."))]
        kept = len(parts) - node.level + module.is_package
        base = ".".join([*parts[:kept], *filter(None, [node.module])])
    inside = base.removeprefix("dispatcher").removeprefix(".")
    found = []
    for alias in node.names:
        longer = f"{inside}.{alias.name}".removeprefix(".")
        found.append(f"dispatcher.{longer}" if is_ours(base) and longer in module.known else base)
    return found


def is_ours(name: str) -> bool:
    return name == "dispatcher" or name.startswith("dispatcher.")


def imports(module: Module) -> Iterator[tuple[int, str]]:
    """Every import, in functions and under TYPE_CHECKING too."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for name in absolute(module, node):
                yield node.lineno, name


def own_imports(module: Module) -> Iterator[tuple[int, str]]:
    for line, name in imports(module):
        if is_ours(name):
            yield line, name.removeprefix("dispatcher").removeprefix(".")


def rank(name: str) -> int:
    return len(RANKS) if name in FACE else RANKS.index(name.split(".")[0])


def imports_point_downwards(module: Module) -> Iterator[str]:
    for line, target in own_imports(module):
        if rank(target) > rank(module.name):
            yield f"{line}: imports dispatcher.{target}, which is above it in: {' < '.join(RANKS)} < the public face"


def third_parties_have_their_place(module: Module) -> Iterator[str]:
    for line, name in imports(module):
        top = name.split(".")[0]
        if top in sys.stdlib_module_names or is_ours(name):
            continue
        if top not in THIRD_PARTY:
            yield f"{line}: imports {top}, which is no dependency of Dispatcher"
        elif not module.within(THIRD_PARTY[top]):
            yield f"{line}: imports {top}, which belongs in {', '.join(THIRD_PARTY[top])} only"


def no_lazy_imports(module: Module) -> Iterator[str]:
    for function in functions(module.tree):
        for node in ast.walk(function):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = set(absolute(module, node)) - SEAMS.get((module.name, function.name), set()) - OPTIONAL
                if names:
                    yield f"{node.lineno}: imports {', '.join(sorted(names))} inside {function.name}()"
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
                if module.name not in BY_NAME:
                    yield f"{node.lineno}: loads a module by its name inside {function.name}()"


def user_code_meets_no_broker(module: Module) -> Iterator[str]:
    if not module.within(EXECUTORS + EXECUTION):
        return
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        allowed = DATA_OF_BROKERS if module.within(EXECUTION) and isinstance(node, ast.ImportFrom) else set()
        for name, alias in zip(absolute(module, node), node.names, strict=True):
            if re.match(r"dispatcher\.(brokers|amqp|runtime\.settle)\b", name) and alias.name not in allowed:
                yield f"{node.lineno}: imports {alias.name} of {name}; what runs user code can neither ack nor publish"


def find_cycle(graph: dict[str, set[str]]) -> list[str] | None:
    """One cycle of `graph` as the names along it, the first repeated at the end; None where there is none."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str] | None:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return None
        for target in sorted(graph.get(name, ())):
            if cycle := visit(target, [*path, name]):
                return cycle
        done.add(name)
        return None

    for start in sorted(graph):
        if cycle := visit(start, []):
            return cycle
    return None


def import_graph(modules: list[Module]) -> dict[str, set[str]]:
    return {module.name: {target for _, target in own_imports(module)} for module in modules}


# --- who may do what ----------------------------------------------------------------------------------------------


def method_calls(module: Module, names: set[str]) -> Iterator[tuple[int, str]]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and node.attr in names and isinstance(node.ctx, ast.Load):
            yield node.lineno, node.attr


def only_settle_acks(module: Module) -> Iterator[str]:
    if not module.within(SETTLING):
        for line, name in method_calls(module, {"ack", "nack", "reject"}):
            yield f"{line}: .{name}: only runtime/settle.py settles a delivery"


def only_publishers_publish(module: Module) -> Iterator[str]:
    if not module.within(PUBLISHING):
        for line, _ in method_calls(module, {"publish"}):
            yield f"{line}: .publish: messages are published by {', '.join(PUBLISHING)} only"


def the_environment_is_read_at_the_edge(module: Module) -> Iterator[str]:
    if module.within(ENVIRONMENT):
        return
    names = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
    for node in ast.walk(module.tree):
        match node:
            case ast.Attribute(value=ast.Name(id="os"), attr=name) if name in names:
                yield f"{node.lineno}: os.{name}: only {', '.join(ENVIRONMENT)} read the environment"
            case ast.ImportFrom(module="os", names=aliases) if names & {alias.name for alias in aliases}:
                yield f"{node.lineno}: imports the environment from os"


def nobody_prints(module: Module) -> Iterator[str]:
    if not module.within(PRINTING):
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                yield f"{node.lineno}: print(): output is the command line's business; report an event instead"


def the_root_logger_is_the_users(module: Module) -> Iterator[str]:
    if module.within(ROOT_LOGGER):
        return
    functions_of_root = {"basicConfig", "critical", "debug", "error", "exception", "info", "log", "warning"}
    for node in ast.walk(module.tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="logging"), attr=name)) if name in functions_of_root:
                yield f"{node.lineno}: logging.{name}() writes to the root logger"
            case ast.Attribute(value=ast.Name(id="logging"), attr="root"):
                yield f"{node.lineno}: logging.root is the user's"
            case ast.Call(func=ast.Attribute(attr="getLogger"), args=[] | [ast.Constant(value=None | "" | "root")]):
                yield f"{node.lineno}: getLogger() without a name is the root logger"


# --- form ---------------------------------------------------------------------------------------------------------


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def modules_and_functions_are_short(module: Module) -> Iterator[str]:
    lines = module.source.count("\n")
    if lines > MAX_MODULE_LINES:
        yield f"1: {lines} lines, more than {MAX_MODULE_LINES}"
    for function in functions(module.tree):
        lines = (function.end_lineno or 0) - function.lineno + 1
        if lines > MAX_FUNCTION_LINES:
            yield f"{function.lineno}: {function.name}() has {lines} lines, more than {MAX_FUNCTION_LINES}"


def modules_say_what_they_are(module: Module) -> Iterator[str]:
    if module.source.strip() and not ast.get_docstring(module.tree):
        yield "1: no docstring that says what the module is and what it must never do"


def no_bare_except(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield f"{node.lineno}: bare except: name what is expected"


def sort_key(name: str) -> tuple[int, list[int | str]]:
    """Constants, classes, the rest; numbers by their value. The same order as ruff's RUF022 writes."""
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2
    return kind, [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def top_level(tree: ast.Module) -> Iterator[ast.stmt]:
    """The statements that define a module's names, those under `if` and `try` too."""
    todo: list[ast.AST] = list(tree.body)
    while todo:
        node = todo.pop(0)
        if isinstance(node, ast.If | ast.Try):
            todo.extend(
                child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt | ast.ExceptHandler)
            )
        elif isinstance(node, ast.ExceptHandler):
            todo.extend(node.body)
        elif isinstance(node, ast.stmt):
            yield node


def defined_names(tree: ast.Module) -> tuple[set[str], set[str]]:
    """All names that a module has, and the public classes and functions among them that it defines itself."""
    names: set[str] = set()
    own: set[str] = set()
    for node in top_level(tree):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.add(name)
                own |= {name} if not name.startswith("_") else set()
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                names |= {alias.asname or alias.name.split(".")[0] for alias in aliases}
            case ast.Assign() | ast.AnnAssign():
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names |= {leaf.id for target in targets for leaf in ast.walk(target) if isinstance(leaf, ast.Name)}
    return names, own


def all_is_true(module: Module) -> Iterator[str]:
    if not module.source.strip():
        return
    lists = [
        node
        for node in module.tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target) == "__all__"
    ]
    if len(lists) != 1 or lists[0].value is None:
        yield "1: no __all__"
        return
    line, listed = lists[0].lineno, list(ast.literal_eval(lists[0].value))
    names, own = defined_names(module.tree)
    if missing := sorted(set(listed) - names):
        yield f"{line}: __all__ names what is not there: {', '.join(missing)}"
    if left_out := sorted(own - set(listed)):
        yield f"{line}: __all__ leaves out {', '.join(left_out)}; list it, or begin its name with an underscore"
    if listed != sorted(set(listed), key=sort_key):
        yield f"{line}: __all__ is not sorted, or lists a name twice"


# --- the tests ----------------------------------------------------------------------------------------------------

FAULTS: list[tuple[Rule, str, str, str]] = [
    # rule, name of a module, its source with the fault, what the complaint says
    (imports_point_downwards, "model.task", "from ..runtime import worker", "imports dispatcher.runtime"),
    (imports_point_downwards, "model.task", "from .. import runtime", "imports dispatcher.runtime"),
    (imports_point_downwards, "errors", "import dispatcher.model.task", "imports dispatcher.model.task"),
    (imports_point_downwards, "ops.cli", "from dispatcher import Task", "imports dispatcher."),
    (imports_point_downwards, "model.task", "from dispatcher.types import Int8", "imports dispatcher.types"),
    (
        imports_point_downwards,
        "brokers.base",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..observe.hooks import Observer",
        "3: imports dispatcher.observe.hooks",
    ),
    (third_parties_have_their_place, "model.task", "import requests", "no dependency"),
    (third_parties_have_their_place, "runtime.app", "from click import echo", "belongs in ops only"),
    (no_lazy_imports, "runtime.app", "def f():\n    from .worker import Worker", "inside f()"),
    (no_lazy_imports, "brokers", "def _sqlite():\n    from .rabbitmq import RabbitBroker", "inside _sqlite()"),
    (no_lazy_imports, "runtime.app", "def f():\n    importlib.import_module('json')", "by its name inside f()"),
    (
        user_code_meets_no_broker,
        "runtime.execution",
        "from ..brokers.base import Session",
        "Session of dispatcher.brokers",
    ),
    (
        user_code_meets_no_broker,
        "runtime.executors.threads",
        "from ..settle import settle",
        "dispatcher.runtime.settle",
    ),
    (only_settle_acks, "runtime.worker", "delivery.ack()", "1: .ack"),
    (only_settle_acks, "runtime.worker", "do = delivery.reject", "1: .reject"),
    (only_publishers_publish, "runtime.execution", "session.publish(message)", "1: .publish"),
    (the_environment_is_read_at_the_edge, "model.task", "import os\nx = os.environ['A']", "2: os.environ"),
    (the_environment_is_read_at_the_edge, "model.task", "import os\nx = os.getenv('A')", "2: os.getenv"),
    (the_environment_is_read_at_the_edge, "model.task", "from os import environ", "from os"),
    (nobody_prints, "runtime.worker", "print('x')", "print()"),
    (the_root_logger_is_the_users, "runtime.worker", "logging.basicConfig()", "logging.basicConfig()"),
    (the_root_logger_is_the_users, "runtime.worker", "logging.info('x')", "logging.info()"),
    (the_root_logger_is_the_users, "runtime.worker", "logging.getLogger()", "without a name"),
    (the_root_logger_is_the_users, "runtime.worker", "logging.getLogger('root')", "without a name"),
    (the_root_logger_is_the_users, "runtime.worker", "logging.root.handlers", "logging.root"),
    (modules_and_functions_are_short, "model.task", "x = 1\n" * 451, "451 lines"),
    (modules_and_functions_are_short, "model.task", "def f():\n" + "    x = 1\n" * 60, "f() has 61 lines"),
    (modules_say_what_they_are, "model.task", "x = 1", "no docstring"),
    (no_bare_except, "model.task", "try:\n    x = 1\nexcept:\n    pass", "3: bare except"),
    (all_is_true, "model.task", "x = 1", "no __all__"),
    (all_is_true, "model.task", "__all__ = ['gone']", "not there: gone"),
    (all_is_true, "model.task", "__all__ = []\ndef shown(): ...", "leaves out shown"),
    (all_is_true, "model.task", "__all__ = []\nif x:\n    class Shown: ...", "leaves out Shown"),
    (all_is_true, "model.task", "__all__ = ['b', 'a']\na = b = 1", "not sorted"),
    (all_is_true, "model.task", "__all__ = ['a', 'a']\na = 1", "twice"),
]

RULES = list(dict.fromkeys(rule for rule, *_ in FAULTS))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_sources_keep_the_rule(rule: Rule) -> None:
    """No module of Dispatcher breaks the rule."""
    complaints = [
        f"dispatcher.{module.name}:{complaint}".replace(".:", ":") for module in MODULES for complaint in rule(module)
    ]
    assert not complaints, "\n" + "\n".join(complaints)


@pytest.mark.parametrize(
    ("rule", "name", "source", "complaint"),
    FAULTS,
    ids=[f"{rule.__name__}-{number}" for number, (rule, *_) in enumerate(FAULTS)],
)
def test_the_rule_catches_a_fault(rule: Rule, name: str, source: str, complaint: str) -> None:
    """The rule says no to one fault that was planted, and exactly once."""
    known = frozenset({"errors", "types", "model.task", "runtime", "runtime.worker", "runtime.settle", "observe.hooks"})
    (found,) = rule(Module(name, source, known=known))
    assert complaint in found


@pytest.mark.parametrize(
    ("rule", "name", "source"),
    [
        (imports_point_downwards, "ops.cli", "from ..errors import ConfigError\nfrom ..runtime.app import Dispatcher"),
        (imports_point_downwards, "", "from .types import Int8\nfrom .runtime.app import Dispatcher"),
        (no_lazy_imports, "ops.reload", "def f():\n    import watchfiles"),
        (no_lazy_imports, "model.schedule", "def _zone():\n    from zoneinfo import ZoneInfo"),
        (no_lazy_imports, "ops.cli", "def f():\n    importlib.import_module('json')"),
        (user_code_meets_no_broker, "runtime.execution", "from ..brokers.base import Delivery"),
        (only_settle_acks, "runtime.settle", "delivery.ack()"),
        (the_root_logger_is_the_users, "runtime.worker", "logging.getLogger('dispatcher')"),
        (all_is_true, "model.task", "__all__ = ['B2', 'B10', 'a']\nB2 = B10 = 1\ndef a(): ...\ndef _b(): ..."),
        (modules_and_functions_are_short, "model.task", "def f():\n" + "    x = 1\n" * 59),
    ],
)
def test_the_rule_lets_pass_what_is_right(rule: Rule, name: str, source: str) -> None:
    """The rule has nothing to say to sources that keep it."""
    assert list(rule(Module(name, source))) == []


def test_imports_have_no_cycle() -> None:
    """No module imports itself by way of others."""
    cycle = find_cycle(import_graph(MODULES))
    assert cycle is None, "a cycle of imports: " + " -> ".join(cycle or [])


def test_a_cycle_is_found() -> None:
    """A planted cycle is named along its way, one under TYPE_CHECKING too."""
    known = frozenset({"model.a", "model.b", "model.c"})
    planted = [
        Module("model.a", "from .b import x", known=known),
        Module("model.b", "from . import c", known=known),
        Module("model.c", "if TYPE_CHECKING:\n    import dispatcher.model.a", known=known),
    ]
    assert find_cycle(import_graph(planted)) == ["model.a", "model.b", "model.c", "model.a"]
    assert find_cycle(import_graph(planted[:2])) is None


def test_every_module_has_a_rank() -> None:
    """The sources were found, and each module is in a folder that the order of imports knows."""
    names = {module.name for module in MODULES}
    assert {"errors", "model.task", "brokers.base", "observe.events"} <= names
    assert [name for name in names if name not in FACE and name.split(".")[0] not in RANKS] == []
