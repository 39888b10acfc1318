"""The three least-privilege users in a vhost, with exactly the rights that `roles` says, and none of a test's own making."""

from __future__ import annotations

from secrets import token_hex
from urllib.parse import quote, urlsplit, urlunsplit

from rabbitmq_admin import Admin

from dispatcher.brokers import open_broker
from dispatcher.brokers.rabbitmq.plan import roles
from dispatcher.model.topology import Topology

__all__ = ["ROLES", "Roles"]

ROLES = ("install", "publish", "work")


class Roles:
    """The users of one vhost, whose URL for its administrator is `url`. They may do nothing until `allow`."""

    def __init__(self, admin: Admin, vhost: str, url: str) -> None:
        self.password = f"canary-{token_hex(8)}"
        self._admin = admin
        self._vhost = vhost
        self._url = urlsplit(url)
        self._topologies: list[Topology] = []
        for role in ROLES:
            admin.add_user(self.user(role), self.password, vhost, ("^$", "^$", "^$"))

    def user(self, role: str) -> str:
        return f"{role}-{self._vhost}"

    def url(self, role: str) -> str:
        """The vhost's URL for the user of that role."""
        host = self._url.netloc.rpartition("@")[2]
        return urlunsplit(self._url._replace(netloc=f"{quote(self.user(role), safe='')}:{self.password}@{host}"))

    def allow(self, topology: Topology) -> None:
        """Give each role its rights for `topology`, besides those for what was allowed before."""
        self._topologies.append(topology)
        for role in ROLES:
            rights = [roles(each)[role] for each in self._topologies]
            self._admin.permit(
                self.user(role),
                self._vhost,
                (
                    "|".join(r.configure for r in rights),
                    "|".join(r.write for r in rights),
                    "|".join(r.read for r in rights),
                ),
            )

    async def install(self, topology: Topology) -> None:
        """Allow it, and create it as the install role."""
        self.allow(topology)
        session = await open_broker(self.url("install")).connect(name="install", on_event=lambda event: None)
        try:
            await session.declare(topology)
        finally:
            await session.close()
