"""Serve the page to explore a map, for this machine only."""

from __future__ import annotations

from collections.abc import Callable

from epsopt.studies.explore.application import POLICY, READ_ONLY, ExploreApplication
from epsopt.studies.explore.snapshot import Snapshot
from epsopt.studies.explore.view import View
from epsopt.studies.report.dashboard import DashboardServer, bind, check_address
from epsopt.studies.report.host_check import guard


def explore_server(
    snapshot: Snapshot,
    host: str = "127.0.0.1",
    port: int = 8081,
    *,
    allow_remote: bool = False,
    allow_writes: bool = False,
    shown: View | None = None,
) -> DashboardServer:
    """Bind a server for the page; ``serve_forever()`` runs it.

    Args:
        snapshot: the catalogue and the map.
        host: name or address to listen on.
        port: 0 takes a free one.
        allow_remote: whether an address that other machines can reach is meant. There is no password.
        allow_writes: whether the page may queue proposals.
        shown: the page's data, where it is put together already.

    Returns:
        The server, bound and not yet serving; a context manager that closes it.

    Raises:
        UsageError: an address that other machines can reach, without allow_remote; or no port number.
        EpsoptError: the address cannot be listened on.
    """
    check_address(host, port, allow_remote=allow_remote)
    application = ExploreApplication(snapshot, allow_writes=allow_writes, shown=shown)
    return bind(guard(application, host, allow_edits=allow_writes, only_shows=READ_ONLY, policy=POLICY), host, port)


def serve_page(server: DashboardServer, announce: Callable[[str], object]) -> None:
    """Serve until interrupted.

    Args:
        server: as :func:`explore_server` bound it; it is closed.
        announce: is given the address.
    """
    with server:
        announce(server.url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return
