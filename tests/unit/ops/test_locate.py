"""Finding the app: what works, and what is said when it does not."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dispatcher import Dispatcher
from dispatcher.ops.failures import CliError
from dispatcher.ops.locate import load_app, looks_like_target, pick

WriteModule = Callable[[str, str], None]

APP = "from dispatcher import Dispatcher\napp = Dispatcher('memory://')\n"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WriteModule]:
    """Writes modules into an empty current folder; they are forgotten after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)

    def write_module(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    yield write_module
    for name in set(sys.modules) - before:
        del sys.modules[name]


def failure(target: str) -> CliError:
    with pytest.raises(CliError) as caught:
        load_app(target)
    assert caught.value.exit_code == 78
    return caught.value


def test_an_app_is_found_by_module_and_name(write: WriteModule) -> None:
    """The current folder is searched first."""
    write("shop.py", APP)
    name, app = load_app("shop:app")
    assert name == "shop:app" and isinstance(app, Dispatcher)


def test_the_only_app_of_a_module_needs_no_name(write: WriteModule) -> None:
    """Two names of one app are one app."""
    write("shop/__init__.py", "")
    write("shop/work.py", APP + "alias = app\n")
    assert load_app("shop.work")[0] == "shop.work:app"


def test_an_app_inside_an_object_is_found(write: WriteModule) -> None:
    """A dotted name is followed."""
    write("shop.py", APP + "class Settings:\n    main = app\n")
    assert load_app("shop:Settings.main")[0] == "shop:Settings.main"


def test_several_apps_must_be_told_apart(write: WriteModule) -> None:
    """It does not guess, and says which there are."""
    write("shop.py", APP + "other = Dispatcher('memory://')\n")
    error = failure("shop")
    assert "2 apps: app, other" in error.message and "shop:app" in error.hint


def test_a_missing_module_names_where_it_looked_and_the_nearest_file(write: WriteModule, tmp_path: Path) -> None:
    """The commonest mistake of all."""
    write("tasks.py", APP)
    error = failure("taks:app")
    assert "no module 'taks'" in error.message and str(tmp_path) in error.message
    assert "tasks.py" in error.hint


def test_a_missing_module_that_is_one_folder_down(write: WriteModule) -> None:
    """The hint gives the name to type."""
    write("src/shop/tasks.py", APP)
    assert "try src.shop.tasks" in failure("tasks:app").hint


def test_an_empty_folder_is_said_to_be_empty(write: WriteModule) -> None:
    """Then the folder is the mistake."""
    assert "no Python file" in failure("tasks:app").hint


@pytest.mark.parametrize(("target", "hint"), [("tasks.py:app", "tasks:app"), ("src/shop/tasks.py", "src.shop.tasks")])
def test_a_file_name_instead_of_a_module(write: WriteModule, target: str, hint: str) -> None:
    """What was meant is offered."""
    assert failure(target).hint.endswith(hint)


@pytest.mark.parametrize("target", ["", ":app", "a b:app", "-x", "a..b"])
def test_what_is_no_module_name(write: WriteModule, target: str) -> None:
    """It is refused before anything is imported."""
    assert "expected module:app" in failure(target).message


def test_an_error_inside_the_module_is_shown_as_the_users_own(write: WriteModule) -> None:
    """Its type, its text, its lines; no frame of Dispatcher or of the import machinery."""
    write("deep.py", "def f():\n    return 1 / 0\n")
    write("shop.py", "import deep\n\nvalue = deep.f()\n")
    error = failure("shop:app")
    assert error.message == "cannot import 'shop': ZeroDivisionError: division by zero"
    assert error.detail == ("shop.py:3: value = deep.f()", "deep.py:2: return 1 / 0")


def test_a_missing_import_inside_the_module_is_not_taken_for_the_module_itself(write: WriteModule) -> None:
    """It names what is missing, and where it was asked for."""
    write("shop.py", "import surely_not_installed\n")
    error = failure("shop:app")
    assert "No module named 'surely_not_installed'" in error.message
    assert error.detail == ("shop.py:1: import surely_not_installed",)
    assert "install" in error.hint


def test_a_syntax_error_names_its_line(write: WriteModule) -> None:
    """As Python would."""
    write("shop.py", "x = 1\ndef broken(:\n")
    error = failure("shop:app")
    assert "SyntaxError" in error.message and error.detail == ("shop.py:2: def broken(:",)


def test_a_module_that_exits_does_not_end_the_command_silently(write: WriteModule) -> None:
    """`SystemExit` is an error like any other here."""
    write("shop.py", "import sys\nsys.exit(0)\n")
    assert "SystemExit" in failure("shop:app").message


def test_a_mistake_in_a_task_is_shown_without_our_frames(write: WriteModule) -> None:
    """Dispatcher's own sentence, and the user's line."""
    write("shop.py", APP + "@app.task\ndef work(*, only: int) -> None: ...\n")
    error = failure("shop:app")
    assert "ConfigError" in error.message and all(line.startswith("shop.py:") for line in error.detail)


def test_no_app_in_the_module_says_what_is_there(write: WriteModule) -> None:
    """And how an app is made."""
    write("shop.py", "price = 3\n")
    error = failure("shop")
    assert "no Dispatcher" in error.message and "price" in error.hint and "Dispatcher()" in error.hint


def test_a_wrong_attribute_offers_the_app(write: WriteModule) -> None:
    """The nearest one."""
    write("shop.py", APP)
    assert "did you mean shop:app?" in failure("shop:ap").hint


def test_an_attribute_that_is_no_app(write: WriteModule) -> None:
    """It says what came."""
    write("shop.py", APP + "price = 3\n")
    assert "expected shop:price to be a Dispatcher, got int" in failure("shop:price").message


def test_pick_offers_the_nearest_name() -> None:
    """Or lists what there is."""
    with pytest.raises(CliError) as caught:
        pick("task", "sendmail", {"send_mail": 1}, exit_code=2)
    assert caught.value.hint == "did you mean 'send_mail'?"
    with pytest.raises(CliError) as caught:
        pick("task", "zzz", {"a": 1, "b": 2}, exit_code=2)
    assert caught.value.hint == "there are: a, b"


@pytest.mark.parametrize(
    ("word", "expected"),
    [("tasks:app", True), ("a.b:c.d", True), ("tasks", False), ("5f3c-11", False), ("order:17", False), (":x", False)],
)
def test_a_target_is_told_from_a_uuid(word: str, expected: bool) -> None:
    """`dead show` takes both as its first word."""
    assert looks_like_target(word) is expected
