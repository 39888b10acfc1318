"""The documentation is true: its Python runs and prints what it says, its links lead somewhere, its tables are complete."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import click
import msgspec
import pytest
from pages import DOCS, ROOT, all_pages, blocks, environment, local_links

from dispatcher import ConfigError, Queue, RetryPolicy, ServerConfig, TaskConfig, WorkerConfig
from dispatcher.amqp.url import parse_url
from dispatcher.brokers.rabbitmq.plan import roles
from dispatcher.model import headers, outcome, wire
from dispatcher.model.topology import Topology
from dispatcher.ops import failures
from dispatcher.ops.cli import COMMANDS, cli
from dispatcher.runtime.app_task import SendOptions

PAGE_SECONDS = 90


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


PAGES = all_pages()
RUNNABLE = [page for page in PAGES if blocks(page, "python")]


@pytest.mark.timeout(PAGE_SECONDS + 30)
@pytest.mark.parametrize("page", RUNNABLE, ids=named)
def test_the_python_of_a_page_runs_and_prints_what_the_page_says(page: Path, tmp_path: Path) -> None:
    """The blocks marked `python` are one program; those marked `output`, where there are any, are what it prints."""
    program = tmp_path / "tasks.py"
    program.write_text("\n".join(blocks(page, "python")))
    ran = subprocess.run(
        [sys.executable, program.name],
        cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, timeout=PAGE_SECONDS, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    expected = blocks(page, "output")
    if expected:
        assert ran.stdout == "".join(expected), ran.stderr


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_what_cannot_run_here_is_python_at_least(page: Path) -> None:
    """Blocks marked `py` need a framework that is not installed; they must parse."""
    for text in blocks(page, "py"):
        ast.parse(textwrap.dedent(text))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_to_files(page: Path) -> None:
    """A link to a file of the repository names one that is there."""
    missing = [link for link in local_links(page) if not (page.parent / link).exists()]
    assert not missing


def test_every_page_can_be_reached_from_the_index() -> None:
    """Whoever follows the links from docs/index.md sees every page under docs."""
    seen: set[Path] = set()
    left = [DOCS / "index.md"]
    while left:
        page = left.pop()
        if page in seen:
            continue
        seen.add(page)
        left += [(page.parent / link).resolve() for link in local_links(page) if link.endswith(".md")]
    assert {named(page) for page in DOCS.rglob("*.md")} <= {named(page) for page in seen if page.is_relative_to(ROOT)}


def page_names(page: str, words: list[str]) -> list[str]:
    """Those of `words` that the page does not have as code."""
    text = (DOCS / page).read_text()
    return [word for word in words if f"`{word}`" not in text and f"`{word} " not in text]


@pytest.mark.parametrize("config", [ServerConfig, WorkerConfig, TaskConfig, RetryPolicy, Queue])
def test_the_configuration_page_names_every_field(config: type[msgspec.Struct]) -> None:
    """No field of a config type is undocumented."""
    assert page_names("reference/configuration.md", list(config.__struct_fields__)) == []


def test_the_configuration_page_names_every_option_of_a_send() -> None:
    """`task.options(…)` is shown with each of its parameters."""
    text = (DOCS / "reference/configuration.md").read_text()
    shown = text.split("`task.options(")[1].split(")`")[0]
    assert sorted(shown.split(", ")) == sorted(SendOptions.__struct_fields__)


def options_of(command: click.Command, name: str) -> list[tuple[str, str]]:
    """Every long and short option of a command and its subcommands, with the command's name."""
    found = [(name, word) for param in command.params if isinstance(param, click.Option) for word in param.opts]
    if isinstance(command, click.Group):
        with click.Context(command) as ctx:
            for sub in command.list_commands(ctx):
                below = command.get_command(ctx, sub)
                assert below is not None
                found += options_of(below, f"{name} {sub}".strip())
    return found


def test_the_command_line_page_names_every_command_and_option() -> None:
    """No command and no option of one is undocumented."""
    options = options_of(cli, "")
    assert {name.split(" ")[0] for name, _ in options if name} == set(COMMANDS)
    text = (DOCS / "reference/cli.md").read_text()
    undocumented = {f"{name} {word}" for name, word in options if f"`{word}`" not in text and f"`{word} " not in text}
    assert undocumented - {" --version"} == set()
    assert [name for name in COMMANDS if f"## dispatcher {name}" not in text] == []


def test_the_exit_codes_page_names_every_code() -> None:
    """Each code that the command line can end with has its row."""
    codes = {value for name, value in vars(failures).items() if name.startswith("EXIT_")} | {0, 130, 143}
    text = (DOCS / "reference/exit-codes.md").read_text()
    assert [code for code in sorted(codes) if f"\n| {code} |" not in text] == []


def test_the_headers_page_names_every_header() -> None:
    """The page has a row for each header of ours, and for nothing else."""
    ours = {v for v in vars(headers).values() if isinstance(v, str) and v.startswith(headers.PREFIX)} - {headers.PREFIX}
    rows = {
        line.split("`")[1] for line in (DOCS / "reference/headers.md").read_text().splitlines() if line[:3] == "| `"
    }
    assert rows == ours


def test_the_wire_format_page_names_every_type() -> None:
    """Each wire type has its place in the table."""
    assert page_names("reference/wire-format.md", list(wire.WIRE_TYPES)) == []


def test_the_fates_page_names_every_reason() -> None:
    """Each reason of a dead letter is said."""
    assert page_names("explanation/fates.md", list(outcome.REASONS)) == []


def test_the_rabbitmq_page_shows_the_rights_that_are_needed() -> None:
    """The patterns of the three users are those of the code, for the exchange and the queue that the page names."""
    cells = [
        [cell.strip().strip("`").replace("\\|", "|") for cell in line.strip("|").split(" | ")]
        for line in (DOCS / "how-to/rabbitmq.md").read_text().splitlines()
    ]
    for name, rights in roles(Topology("shop", (Queue("emails"),))).items():
        (shown,) = [row[1:] for row in cells if row[0] == name and len(row) == 4]
        assert [shown[0] if cell == "as configure" else cell for cell in shown] == [
            rights.configure,
            rights.write,
            rights.read,
        ]


def test_the_rabbitmq_page_names_the_parameters_of_a_url() -> None:
    """Each that its table names is taken, and what is not taken is not named."""
    with pytest.raises(ConfigError) as refused:
        parse_url("amqp://localhost/?wrong=1")
    known = str(refused.value).split("the parameters ")[1].split(", got")[0].split(", ")
    assert page_names("how-to/rabbitmq.md", known) == []


def test_the_readme_shows_the_quickstart() -> None:
    """The README's example is examples/quickstart.py, letter by letter."""
    assert blocks(ROOT / "README.md", "python") == [(ROOT / "examples" / "quickstart.py").read_text()]
