"""What tests do to a RabbitMQ besides AMQP: vhosts, users, policies, closing connections; in milliseconds.

`rabbitmqctl` starts an Erlang machine for each command; `erl_call` is a small program that asks the running one. Where its
cookie is not ours, the management API does the same. Must never touch a vhost or a user that the tests have not made.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

__all__ = ["Admin", "AdminError", "ErlangAdmin", "HttpAdmin", "find_erl_call"]

CALL_SECONDS = 30
EVERYTHING = (".*", ".*", ".*")
STATISTICS_SECONDS = 10.0
POLL_SECONDS = 0.1
CLOSE_REASON = "closed by a test"
PREDECLARED = r"^(amq\.|$)"
"""The exchanges that RabbitMQ itself makes in a vhost."""


class AdminError(Exception):
    """The broker could not be asked, or did not do what it was asked."""


class Admin(Protocol):
    """The same on every broker. Each method raises `AdminError`.

    `user` may do everything in a vhost that is added; `added_users` are those that are not deleted yet.
    """

    user: str
    added_users: set[str]

    def add_vhost(self, vhost: str) -> None: ...

    def delete_vhost(self, vhost: str) -> None:
        """Delete a vhost with all that is in it; its connections are closed. None of that name is no error."""

    def close_all_connections(self, vhost: str) -> int:
        """Close every connection to that vhost (320 CONNECTION_FORCED). Returns how many there were."""

    def list_queues(self, vhost: str) -> dict[str, str]:
        """Every queue's name with its type: classic, quorum."""

    def counts(self, vhost: str, *, in_transit: bool = False) -> dict[str, tuple[int, int]]:
        """How many messages of every queue are ready, and how many are with a consumer unsettled. Streams are no queues.

        `in_transit`: what is on its way to the next queue, at-least-once, counts as ready where it was.
        """

    def clear(self, vhost: str, keep: str) -> None:
        """Delete every queue and exchange there, but those whose whole name matches `keep`: they are emptied."""

    def delete_queue(self, vhost: str, queue: str) -> None: ...

    def add_user(self, user: str, password: str, vhost: str, permissions: tuple[str, str, str] = EVERYTHING) -> None:
        """A user without tags; `permissions` are the patterns for configure, write and read in that vhost."""

    def permit(self, user: str, vhost: str, permissions: tuple[str, str, str]) -> None:
        """Give a user other permissions there in place of those it has."""

    def delete_user(self, user: str) -> None: ...

    def set_policy(
        self, vhost: str, name: str, pattern: str, definition: Mapping[str, object], apply_to: str = "queues"
    ) -> None: ...


def find_erl_call() -> str:
    """Where erl_call lies on this machine: in PATH, else in the folder of the Erlang that is. Raises `AdminError`."""
    if found := shutil.which("erl_call"):
        return found
    if erlang := shutil.which("erl"):
        for path in sorted(Path(erlang).resolve().parent.parent.glob("erts-*/bin/erl_call")):
            return str(path)
    raise AdminError("expected erl_call, which comes with Erlang; there is none in PATH or beside erl")


def binary(text: str) -> str:
    """An Erlang binary of that text, whatever is in it."""
    return f"<<{','.join(map(str, text.encode()))}>>"


class ErlangAdmin:
    """Asks the node itself. `erl_call` is the command with its environment, in whose HOME the node's cookie lies."""

    def __init__(self, erl_call: Sequence[str], env: Mapping[str, str], port: int, user: str = "guest") -> None:
        self.user = user
        self.added_users: set[str] = set()
        self._command = (*erl_call, "-address", f"localhost:{port}", "-timeout", str(CALL_SECONDS))
        self._env = env

    def eval(self, expression: str) -> str:
        """The value of an Erlang expression in the node, as Erlang prints it. Raises `AdminError`, also if it throws."""
        program = (
            f'io:put_chars(try unicode:characters_to_binary(io_lib:format(<<"ok ~0tp">>, [begin {expression} end]))'
            ' catch C:R:S -> unicode:characters_to_binary(io_lib:format(<<"no ~0tp">>, [{C, R, S}])) end).\n'
        )
        # Its own random names (-r) repeat within a second, and the node takes two clients of one name for one that came back.
        done = subprocess.run(
            [*self._command, "-h", f"test-{secrets.token_hex(8)}", "-fetch_stdout", "-e"],
            input=program,
            env=self._env,
            capture_output=True,
            text=True,
            timeout=CALL_SECONDS + 10,
        )
        answer = done.stdout.removesuffix("{ok, ok}")
        if done.returncode or answer == done.stdout or not answer.startswith("ok "):
            raise AdminError(f"{expression}: {done.stdout} {done.stderr} (exit code {done.returncode})")
        return answer[3:]

    def add_vhost(self, vhost: str) -> None:
        self._do(f"rabbit_vhost:add({binary(vhost)}, <<>>)")
        self.permit(self.user, vhost, EVERYTHING)

    def delete_vhost(self, vhost: str) -> None:
        self.eval(
            f"try rabbit_vhost:delete({binary(vhost)}, <<>>) catch throw:{{error, {{no_such_vhost, _}}}} -> ok end"
        )

    def close_all_connections(self, vhost: str) -> int:
        closed = self.eval(
            f'length([catch rabbit_networking:close_connection(P, "{CLOSE_REASON}") || '  # its client may be faster
            f"P <- rabbit_networking:local_connections(), "
            f"(catch rabbit_reader:info(P, [vhost])) =:= [{{vhost, {binary(vhost)}}}]])"
        )
        return int(closed)

    def list_queues(self, vhost: str) -> dict[str, str]:
        found: dict[str, str] = json.loads(
            self._text(
                "rabbit_json:encode(maps:from_list([{element(4, amqqueue:get_name(Q)), "
                f"atom_to_binary(amqqueue:get_type(Q), utf8)}} || Q <- rabbit_amqqueue:list({binary(vhost)})]))"
            )
        )
        return {name: kind.removeprefix("rabbit_").removesuffix("_queue") for name, kind in found.items()}

    def counts(self, vhost: str, *, in_transit: bool = False) -> dict[str, tuple[int, int]]:
        # A quorum queue's own figures are seconds old, and are asked of its state machine instead.
        moving = " + Get(num_discarded) + Get(num_discard_checked_out)" if in_transit else ""
        quorum = (
            "begin O = element(2, element(2, ra:leader_query(amqqueue:get_pid(Q), {rabbit_fifo, overview, []}))), "
            "Get = fun(K) -> maps:get(K, O, 0) end, "
            f"[Get(num_ready_messages){moving}, Get(num_checked_out)] end"
        )
        classic = "[N || {_, N} <- rabbit_amqqueue:info(Q, [messages_ready, messages_unacknowledged])]"
        found: dict[str, list[int]] = json.loads(
            self._text(
                "rabbit_json:encode(maps:from_list([{element(4, amqqueue:get_name(Q)), "
                f"case amqqueue:get_type(Q) of rabbit_quorum_queue -> {quorum}; _ -> {classic} end}} || "
                f"Q <- rabbit_amqqueue:list({binary(vhost)}), amqqueue:get_type(Q) =/= rabbit_stream_queue]))"
            )
        )
        return {name: (ready, unacked) for name, (ready, unacked) in found.items()}

    def clear(self, vhost: str, keep: str) -> None:
        self.eval(
            f"Kept = fun(Name) -> re:run(Name, {binary(f'^({keep})$')}) =/= nomatch end, "
            "[case Kept(element(4, amqqueue:get_name(Q))) of "
            "true -> {ok, _} = rabbit_amqqueue:purge(Q); "
            "false -> {ok, _} = rabbit_amqqueue:delete(Q, false, false, <<>>) end || "
            f"Q <- rabbit_amqqueue:list({binary(vhost)})], "
            "[rabbit_exchange:delete(Name, false, <<>>) || "
            f"X <- rabbit_exchange:list({binary(vhost)}), Name <- [element(2, X)], "
            f"re:run(element(4, Name), {binary(PREDECLARED)}) =:= nomatch, not Kept(element(4, Name))]"
        )

    def delete_queue(self, vhost: str, queue: str) -> None:
        name = f"rabbit_misc:r({binary(vhost)}, queue, {binary(queue)})"
        self.eval(
            f"{{ok, Q}} = rabbit_amqqueue:lookup({name}), {{ok, _}} = rabbit_amqqueue:delete(Q, false, false, <<>>)"
        )

    def add_user(self, user: str, password: str, vhost: str, permissions: tuple[str, str, str] = EVERYTHING) -> None:
        self._do(f"rabbit_auth_backend_internal:add_user({binary(user)}, {binary(password)}, <<>>)")
        self.added_users.add(user)
        self.permit(user, vhost, permissions)

    def permit(self, user: str, vhost: str, permissions: tuple[str, str, str]) -> None:
        texts = ", ".join(map(binary, (user, vhost, *permissions)))
        self._do(f"rabbit_auth_backend_internal:set_permissions({texts}, <<>>)")

    def delete_user(self, user: str) -> None:
        self._do(f"rabbit_auth_backend_internal:delete_user({binary(user)}, <<>>)")
        self.added_users.discard(user)

    def set_policy(
        self, vhost: str, name: str, pattern: str, definition: Mapping[str, object], apply_to: str = "queues"
    ) -> None:
        texts = ", ".join(map(binary, (vhost, name, pattern, json.dumps(definition))))
        self._do(f"rabbit_policy:parse_set({texts}, <<48>>, {binary(apply_to)}, <<>>)")

    def _do(self, expression: str) -> None:
        if (answer := self.eval(expression)) != "ok":
            raise AdminError(f"{expression}: expected ok, got {answer}")

    def _text(self, expression: str) -> str:
        """The text of an expression whose value is a binary; in base64, because Erlang's quoting is not ours."""
        return b64decode(self.eval(f"binary_to_list(base64:encode({expression}))").strip('"')).decode()


class HttpAdmin:
    """Asks the management API, with the credentials of an administrator."""

    def __init__(self, host: str, port: int, user: str, password: str) -> None:
        self.user = user
        self.added_users: set[str] = set()
        self._base = f"http://{f'[{host}]' if ':' in host else host}:{port}/api"
        self._login = "Basic " + b64encode(f"{user}:{password}".encode()).decode()

    def add_vhost(self, vhost: str) -> None:
        self._ask("PUT", ("vhosts", vhost), {})
        self.permit(self.user, vhost, EVERYTHING)

    def delete_vhost(self, vhost: str) -> None:
        self._ask("DELETE", ("vhosts", vhost), missing_is_fine=True)

    def close_all_connections(self, vhost: str) -> int:
        # The API learns of a new connection seconds late, so none is believed only after a while.
        deadline = time.monotonic() + STATISTICS_SECONDS
        while not (found := self._ask("GET", ("vhosts", vhost, "connections"))) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        names = [each["name"] for each in found]
        for name in names:
            self._ask("DELETE", ("connections", name), missing_is_fine=True, reason=CLOSE_REASON)
        return len(names)

    def list_queues(self, vhost: str) -> dict[str, str]:
        return {each["name"]: each["type"] for each in self._ask("GET", ("queues", vhost))}

    def counts(self, vhost: str, *, in_transit: bool = False) -> dict[str, tuple[int, int]]:
        # Seconds old: a test that waits for a figure waits longer here. Of what is in transit it tells nothing.
        found = self._ask("GET", ("queues", vhost))
        return {
            each["name"]: (each.get("messages_ready", 0), each.get("messages_unacknowledged", 0))
            for each in found
            if each.get("type") != "stream"
        }

    def clear(self, vhost: str, keep: str) -> None:
        for queue in self._ask("GET", ("queues", vhost)):
            place = ("queues", vhost, queue["name"])
            self._ask("DELETE", (*place, "contents") if re.fullmatch(keep, queue["name"]) else place)
        for exchange in self._ask("GET", ("exchanges", vhost)):
            name = exchange["name"]
            if not re.search(PREDECLARED, name) and not re.fullmatch(keep, name):
                self._ask("DELETE", ("exchanges", vhost, name))

    def delete_queue(self, vhost: str, queue: str) -> None:
        self._ask("DELETE", ("queues", vhost, queue))

    def add_user(self, user: str, password: str, vhost: str, permissions: tuple[str, str, str] = EVERYTHING) -> None:
        self._ask("PUT", ("users", user), {"password": password, "tags": ""})
        self.added_users.add(user)
        self.permit(user, vhost, permissions)

    def permit(self, user: str, vhost: str, permissions: tuple[str, str, str]) -> None:
        self._ask(
            "PUT", ("permissions", vhost, user), dict(zip(("configure", "write", "read"), permissions, strict=True))
        )

    def delete_user(self, user: str) -> None:
        self._ask("DELETE", ("users", user))
        self.added_users.discard(user)

    def set_policy(
        self, vhost: str, name: str, pattern: str, definition: Mapping[str, object], apply_to: str = "queues"
    ) -> None:
        body = {"pattern": pattern, "definition": definition, "apply-to": apply_to}
        self._ask("PUT", ("policies", vhost, name), body)

    def version(self) -> str:
        """The version of the RabbitMQ that answers."""
        return str(self._ask("GET", ("overview",))["rabbitmq_version"])

    def _ask(
        self, verb: str, place: tuple[str, ...], body: object = None, *, missing_is_fine: bool = False, reason: str = ""
    ) -> Any:
        path = "/".join(quote(part, safe="") for part in place)
        request = urllib.request.Request(f"{self._base}/{path}", method=verb)
        request.add_header("Authorization", self._login)
        if reason:
            request.add_header("X-Reason", reason)
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=CALL_SECONDS) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 404 and missing_is_fine:
                    return None
                raise AdminError(f"{verb} {self._base}/{path}: {error.code} {error.read().decode()}") from error
        except OSError as error:
            raise AdminError(f"the management API at {self._base} does not answer: {error}") from error
        return json.loads(text) if text else None
