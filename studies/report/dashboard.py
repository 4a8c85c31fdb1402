"""Serve optuna-dashboard on the project's studies, for this machine only."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable
from socketserver import ThreadingMixIn
from threading import Event, Thread
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from epsopt.studies.optuna_io.storage import open_storage
from epsopt.studies.report.dashboard_views import keep_fresh
from epsopt.studies.report.host_check import Application, guard, is_loopback
from epsopt.studies.report.line_wrapping import break_lines
from epsopt.zoo.errors import EpsoptError, UsageError

if TYPE_CHECKING:
    from optuna.artifacts._protocol import ArtifactStore

logger = logging.getLogger(__name__)


class DashboardServer(ThreadingMixIn, WSGIServer):
    """A server with a thread for every request; knows its own address."""

    daemon_threads = True  # an open request does not keep the program from ending

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        host, port = str(self.server_address[0]), self.server_address[1]
        shown = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)  # noqa: S104
        return f"http://[{shown}]:{port}/" if ":" in shown else f"http://{shown}:{port}/"


class _DashboardServer6(DashboardServer):
    address_family = socket.AF_INET6


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the standard library's
        logger.debug(format, *args)


def dashboard_server(
    storage_url: str,
    host: str = "127.0.0.1",
    port: int = 8080,
    *,
    allow_remote: bool = False,
    allow_edits: bool = False,
    artifacts: ArtifactStore | None = None,
) -> DashboardServer:
    """Bind a server for the dashboard; ``serve_forever()`` runs it.

    Args:
        storage_url: database of the studies; a SQLite file must be there already.
        host: name or address to listen on.
        port: 0 takes a free one.
        allow_remote: whether an address that other machines can reach is meant. There is no password.
        allow_edits: whether studies can be changed and deleted; otherwise they are only shown.
        artifacts: gives the files that trials name; None shows none.

    Returns:
        The server, bound and not yet serving; a context manager that closes it.

    Raises:
        UsageError: an address that other machines can reach, without allow_remote; or no port number.
        EpsoptError: the address cannot be listened on.
        CatalogueError: the database cannot be opened.
    """
    check_address(host, port, allow_remote=allow_remote)
    import optuna_dashboard

    storage = open_storage(storage_url, create=False)
    application = break_lines(optuna_dashboard.wsgi(storage, artifacts))
    return bind(guard(application, host, allow_edits=allow_edits), host, port)


def check_address(host: str, port: int, *, allow_remote: bool) -> None:
    """Refuse an address that other machines can reach, unless that is meant, and what is no port.

    Args:
        host: name or address to listen on.
        port: 0 takes a free one.
        allow_remote: whether an address that other machines can reach is meant. There is no password.

    Raises:
        UsageError: an address that other machines can reach, without allow_remote; or no port number.
    """
    if not allow_remote and not is_loopback(host):
        raise UsageError(
            f"{host} can be reached from other machines, and the page has no passwords: use 127.0.0.1, "
            "or allow remote access if the network is yours alone"
        )
    if not 0 <= port <= 65535:
        raise UsageError(f"port: expected 0 to 65535, got {port}")


def bind(application: Application, host: str, port: int) -> DashboardServer:
    """Bind a server for a guarded application; ``serve_forever()`` runs it.

    Args:
        application: what answers; :func:`epsopt.studies.report.host_check.guard` made it.
        host: name or address to listen on.
        port: 0 takes a free one.

    Raises:
        EpsoptError: the address cannot be listened on.
    """
    kind = _DashboardServer6 if ":" in host else DashboardServer
    try:
        return make_server(host.strip("[]"), port, application, server_class=kind, handler_class=_QuietHandler)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise EpsoptError(f"port {port} on {host} is in use: choose another one, or 0 for any free one") from error
        raise EpsoptError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from error


def serve(
    storage_url: str,
    host: str = "127.0.0.1",
    port: int = 8080,
    *,
    allow_remote: bool = False,
    allow_edits: bool = False,
    artifacts: ArtifactStore | None = None,
    announce: Callable[[str], object] = print,
    refresh: Callable[[], None] | None = None,
) -> None:
    """Serve the dashboard until interrupted; ``announce`` is given its address once it listens.

    Args:
        storage_url: as of :func:`dashboard_server`.
        host: as of :func:`dashboard_server`.
        port: as of :func:`dashboard_server`.
        allow_remote: as of :func:`dashboard_server`.
        allow_edits: as of :func:`dashboard_server`.
        artifacts: as of :func:`dashboard_server`.
        announce: is given the address once the server listens.
        refresh: brings what is shown up to date; called again and again, in a thread of its own.

    Raises:
        EpsoptError: as dashboard_server.
    """
    ended = Event()
    if refresh is not None:
        Thread(target=keep_fresh, args=(refresh, ended, logger.warning), daemon=True).start()
    with dashboard_server(
        storage_url, host, port, allow_remote=allow_remote, allow_edits=allow_edits, artifacts=artifacts
    ) as server:
        announce(server.url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return
        finally:
            ended.set()
