"""A RabbitMQ node of the tests' own, to be killed, paused and alarmed as they like: its ports, name, cookie and data are its own.

It may touch no other RabbitMQ of the machine: it brings even its port mapper (epmd). It ends with the process that
started it, however that one ends. `$DISPATCHER_TEST_RABBITMQ_ROOT` names a root folder whose RabbitMQ is run instead of
the machine's (`make test-rabbitmq4`); that takes chroot, so the superuser.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from amqp_probe import Refused, handshake
from rabbitmq_admin import AdminError, ErlangAdmin, find_erl_call
from tcp_proxy import free_port

__all__ = ["NodeError", "PrivateNode", "find_server"]

ROOT_VARIABLE = "DISPATCHER_TEST_RABBITMQ_ROOT"
START_SECONDS = 50.0
STOP_SECONDS = 60.0
CTL_SECONDS = 60.0
POLL_SECONDS = 0.05
LOG_LINES = 20

FOLDERS = ("/usr/lib/rabbitmq/bin", "/opt/homebrew/sbin", "/usr/local/sbin")
"""Looked at before PATH: what Debian has in PATH changes the user and takes no settings from the environment."""

CHROOT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

CONFIG = """\
listeners.tcp.1 = 127.0.0.1:{port}
disk_free_limit.absolute = 1MB
raft.wal_max_size_bytes = 33554432
vm_memory_calculation_strategy = allocated
"""
"""The last line spares it /proc, which a root folder has not: even a container's superuser may not mount one there."""

GUARD = 'while read -r line; do pids=$line; done; [ -z "$pids" ] || kill -s KILL -- $pids'
"""Reads from a pipe whom to kill when we are gone, which is when the pipe ends; an empty line is nobody."""


class NodeError(Exception):
    """The node could not be started, or did not do what it was told; its last words are in the text."""


def find_server(root: Path | None = None) -> Path:
    """The folder with rabbitmq-server and rabbitmqctl, as seen from within `root`. Raises `NodeError`."""
    for folder in FOLDERS:
        if (root or Path("/")).joinpath(folder[1:], "rabbitmq-server").exists():
            return Path(folder)
    if root is None and (found := shutil.which("rabbitmq-server")):
        return Path(found).parent
    raise NodeError(f"no rabbitmq-server in {', '.join(FOLDERS)}{f' of {root}' if root else ' and in PATH'}")


class PrivateNode:
    """One node. A context manager, which kills it and removes its data at the end.

    `port`: AMQP on 127.0.0.1. `folder`: its data, its log and what `put` placed. `version`: known from `start` on.
    All methods block; each wait has a deadline and raises `NodeError` then.
    """

    def __init__(self) -> None:
        root = os.environ.get(ROOT_VARIABLE)
        self._root = Path(root) if root else None
        self._bin = find_server(self._root)
        self.port = free_port()
        self.name = f"dispatcher-{secrets.token_hex(6)}@localhost"
        self.version = ""
        self._dist_port = free_port()
        self._epmd_port = free_port()
        self._settings: tuple[str, tuple[str, ...], dict[str, str]] = ("", (), {})
        self._server: subprocess.Popen[bytes] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> PrivateNode:
        temporary = self._root / "tmp" if self._root else None
        self.folder = Path(tempfile.mkdtemp(prefix="dispatcher-rabbitmq-", dir=temporary))
        for name in ("data", "log"):
            (self.folder / name).mkdir()
        cookie = self.folder / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(16))
        cookie.chmod(0o400)
        self.admin = ErlangAdmin(*self._command([self._find_erl_call()]), self._dist_port)
        self._guard = subprocess.Popen(["sh", "-c", GUARD], stdin=subprocess.PIPE, start_new_session=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()
            self._epmd = None
        self._tell_guard()
        self._guard.communicate()
        shutil.rmtree(self.folder)

    # --- its life -------------------------------------------------------------------------------------------------

    def start(
        self,
        extra_config: str | None = None,
        plugins: Sequence[str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Start it, on the data of its last start, and wait until all of it is there and guest may open the vhost `/`.

        `extra_config` are more lines of rabbitmq.conf; `env` are more variables, over ours. None: as at the last start.
        """
        if self._server is not None:
            raise NodeError("it runs already")
        last_config, last_plugins, last_env = self._settings
        config = last_config if extra_config is None else extra_config
        enabled = last_plugins if plugins is None else tuple(plugins)
        self._settings = (config, enabled, last_env if env is None else dict(env))
        self.put("rabbitmq.conf", CONFIG.format(port=self.port) + config)
        self.put("enabled_plugins", f"[{','.join(enabled)}].")
        if self._epmd is None:
            self._epmd = self._spawn(["epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1"])
        self._server = self._spawn([str(self._bin / "rabbitmq-server")])
        self._tell_guard()
        self._wait_until_ready()

    def stop(self) -> None:
        """End it in order: clients are told, everything is written."""
        server = self._running()
        self.resume()
        server.terminate()
        try:
            server.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise NodeError(f"still there {STOP_SECONDS:g} s after SIGTERM\n{self._complaints()}") from error
        finally:
            self.kill()

    def kill(self) -> None:
        """`kill -9`: it may write nothing more, and tells nobody. Nothing happens if it does not run."""
        if self._server is not None:
            with contextlib.suppress(ProcessLookupError):  # it ended by itself
                os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait()
            self._server = None
            self._tell_guard()

    def restart(self) -> None:
        """Stop it in order, if it runs, and start it with the same settings and data."""
        if self._server is not None:
            self.stop()
        self.start()

    def pause(self) -> None:
        """Stop the process (SIGSTOP): its connections stand and nobody answers, until `resume`."""
        os.kill(self._running().pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self._running().pid, signal.SIGCONT)

    # --- asking and telling it ------------------------------------------------------------------------------------

    def url(self, user: str = "guest", password: str = "guest", vhost: str = "/") -> str:
        login = f"{quote(user, safe='')}:{quote(password, safe='')}"
        return f"amqp://{login}@127.0.0.1:{self.port}/{quote(vhost, safe='')}"

    def ctl(self, *arguments: str) -> str:
        """What `rabbitmqctl` prints. It takes a second or more; `admin` and `eval` take milliseconds."""
        command, env = self._command([str(self._bin / "rabbitmqctl"), *arguments])
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=CTL_SECONDS)
        if done.returncode:
            raise NodeError(f"rabbitmqctl {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def eval(self, expression: str) -> str:
        """The value of an Erlang expression in the node."""
        return self.admin.eval(expression)

    def alarm(self, what: Literal["memory", "disk"]) -> None:
        """Raise an alarm as if there were no more memory or disk: publishers are blocked until `clear_alarm`."""
        self.eval(f"rabbit_alarm:set_alarm({{{{resource_limit, {what}, node()}}, []}})")

    def clear_alarm(self) -> None:
        """Clear all alarms, whichever there are."""
        self.eval("[rabbit_alarm:clear_alarm(Source) || {Source, _} <- rabbit_alarm:get_alarms()]")

    def put(self, name: str, content: str | bytes) -> str:
        """Write a file that the node can read, a certificate say. Returns its path as the node sees it."""
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return self._inside(path)

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def log(self) -> str:
        """Everything it has logged, and what it printed at its starts."""
        files = sorted((self.folder / "log").iterdir())
        return "".join(file.read_text(errors="replace") for file in files)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _running(self) -> subprocess.Popen[bytes]:
        if self._server is None:
            raise NodeError("it does not run")
        return self._server

    def _inside(self, path: Path) -> str:
        return f"/{path.relative_to(self._root)}" if self._root else str(path)

    def _find_erl_call(self) -> str:
        return "/usr/bin/erl_call" if self._root else find_erl_call()

    def _command(self, command: list[str]) -> tuple[list[str], dict[str, str]]:
        """A command for this node, with its environment: of ours it sees nothing but the PATH."""
        env = {
            "PATH": CHROOT_PATH if self._root else os.environ.get("PATH", CHROOT_PATH),
            "HOME": self._inside(self.folder),
            "LANG": "C.UTF-8",
            "ERL_CRASH_DUMP_SECONDS": "0",  # none: it takes seconds
            "ERL_EPMD_PORT": str(self._epmd_port),
            "RUNNING_UNDER_SYSTEMD": "true",  # the server's script becomes the server, so that its pid is the one we know
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": self._inside(self.folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": self._inside(self.folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": self._inside(self.folder / "data"),
            "RABBITMQ_LOG_BASE": self._inside(self.folder / "log"),
            **self._settings[2],
        }
        if self._root:
            return ["chroot", str(self._root), *command], env
        return command, env

    def _spawn(self, arguments: list[str]) -> subprocess.Popen[bytes]:
        """A process in a group of its own, so that Ctrl-C at the tests does not strike it first."""
        command, env = self._command(arguments)
        with (self.folder / "log" / f"{Path(arguments[0]).name}.out").open("ab") as output:
            return subprocess.Popen(
                command,
                env=env,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _tell_guard(self) -> None:
        group = [f"-{self._server.pid}"] if self._server else []
        mapper = [str(self._epmd.pid)] if self._epmd else []
        assert self._guard.stdin is not None
        self._guard.stdin.write(" ".join((*group, *mapper)).encode() + b"\n")
        self._guard.stdin.flush()

    def _wait_until_ready(self) -> None:
        server = self._running()
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.version = handshake("127.0.0.1", self.port)
                self.eval(f"ok = rabbit:await_startup(node(), false, {START_SECONDS * 1000:.0f})")
                return
            except (OSError, Refused, AdminError) as error:
                if server.poll() is not None or time.monotonic() > deadline:
                    self.kill()
                    raise NodeError(f"RabbitMQ did not start ({error}); it says:\n{self._complaints()}") from error
            time.sleep(POLL_SECONDS)

    def _complaints(self) -> str:
        """The first errors of its log, of which the others follow; if there is none, the last lines."""
        lines = self.log.splitlines()
        errors = [line for line in lines if "[error]" in line]
        return "\n".join(errors[:LOG_LINES] or lines[-LOG_LINES:])
