"""Put the pages together, and serve them to this machine."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dash
from dash import ClientsideFunction, Input, Output, dcc, html
from dash.exceptions import DashException
from flask import Response, abort, request

from anytask.app.nero.data import NeroLibrary
from anytask.app.settings import Page, Settings
from anytask.core.discovery import constructed, load
from anytask.core.files import as_path

logger = logging.getLogger(__name__)

__all__ = ["Page", "Settings", "make_app", "serve"]


#: The names by which this machine reaches itself.
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
#: Addresses that stand for all of a machine's own: by which names it is reached then cannot be known.
_ANY = {"0.0.0.0", "::"}
_ASSETS = Path(__file__).parent / "assets"


def make_app(
    store: str | os.PathLike[str] = "anytask-runs.sqlite",
    *,
    host: str = "127.0.0.1",
    meaning: bool = True,
    nero: Sequence[str | os.PathLike[str]] = (),
    answers: str | os.PathLike[str] = "anytask-answers.sqlite",
    results: Mapping[str, Any] | Sequence[Any] = (),
) -> dash.Dash:
    """Return the application, ready to be served.

    Parameters
    ----------
    store : path, default "anytask-runs.sqlite"
        The store of runs whose comparisons the results page shows; it need not exist yet.
    host : str, default "127.0.0.1"
        The address it will be served at. Only requests that name this address, or this machine, are answered, so that
        no page of another origin can reach it under a name of its own; 0.0.0.0 answers to every name.
    meaning : bool, default True
        Search the catalogue by meaning where ``anytask[text]`` is installed; False goes by words, and loads no model.
    nero : sequence of path
        Folders of saved NERO results for the NERO page.
    answers : path, default "anytask-answers.sqlite"
        The ``--store`` of ``anytask tune-prompt``, whose tunings are shown.
    results : mapping of name -> NeroResult, or sequence of NeroResult
        NERO results of this process for the same page.

    Returns
    -------
    dash.Dash

    Raises
    ------
    ValueError
        If ``store`` is a file of another program, a folder, or in no folder; or if a folder of ``nero`` does not exist.

    Examples
    --------
    >>> app = make_app("not-there-yet.sqlite", meaning=False)
    >>> app.server.test_client().get("/", headers={"Host": "127.0.0.1"}).status_code
    200
    """
    settings = Settings(
        as_path(store, "store"), meaning=meaning, nero=NeroLibrary(nero, results), answers=as_path(answers, "answers")
    )
    app = dash.Dash(
        "anytask.app",
        assets_folder=str(_ASSETS),
        serve_locally=True,
        title="anytask",
        update_title="",
        index_string=(_ASSETS / "index.html").read_text(encoding="utf-8"),
        suppress_callback_exceptions=True,  # the parts of a page come and go with it
        add_log_handler=False,
        enable_mcp=False,
        compress=False,
        meta_tags=[
            {"charset": "utf-8"},
            {"name": "viewport", "content": "width=device-width, initial-scale=1"},
            {"name": "color-scheme", "content": "light dark"},
        ],
    )
    app.layout = _frame
    _import_what_pages_need()
    pages = sorted(map(load, constructed("anytask.app", "PAGE", "path").values()), key=lambda page: page.place)
    for page in pages:
        page.register(app, settings)
    _register_navigation(app, settings, pages)
    _protect(app, host, [page.path for page in pages])
    return app


def serve(
    store: str | os.PathLike[str] = "anytask-runs.sqlite", *, host: str = "127.0.0.1", port: int = 8050,
    on_ready: Callable[[str], None] | None = None, **options: Any,
) -> None:  # fmt: skip
    """Serve the application until ``KeyboardInterrupt``, which Ctrl-C raises.

    Parameters
    ----------
    store, host, **options
        As in :func:`make_app`.
    port : int, default 8050
        The port; 0 takes a free one.
    on_ready : callable, optional
        Called with the address once the server listens.

    Raises
    ------
    ValueError
        If the store can't be one, or the port is in use; the message names a free one.
    """
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log_request(self, *args: Any, **kwargs: Any) -> None:
            """Leave single requests out of the log: the page asks every two seconds."""

    app = make_app(store, host=host, **options)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise ValueError(_why_not(host, port, error)) from error
        listener.listen(128)
        port = listener.getsockname()[1]
        server = make_server(host, port, app.server, threaded=True, request_handler=Quiet, fd=listener.fileno())
        server.daemon_threads = True  # type: ignore[attr-defined]
        try:
            if on_ready is not None:
                shown = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
                threading.Thread(target=on_ready, args=(f"http://{shown}:{port}/",), daemon=True).start()
            server.serve_forever()
        except KeyboardInterrupt:
            logger.info("stopped by an interrupt")
        finally:
            server.server_close()


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address.

    Examples
    --------
    >>> is_loopback("localhost"), is_loopback("127.0.0.5"), is_loopback("0.0.0.0"), is_loopback("127.evil.example")
    (True, True, False, False)
    """
    try:
        return host in _LOOPBACK or ip_address(host).is_loopback
    except ValueError:
        return False


def answers_to(host: str, asked: str) -> bool:
    """Whether an application that is served at ``host`` answers a request whose Host header is ``asked``.

    Examples
    --------
    >>> [answers_to("127.0.0.1", asked) for asked in ("localhost:8050", "[::1]:8050", "127.evil.example:8050")]
    [True, True, False]
    """
    try:
        return host in _ANY or urlsplit(f"//{asked}").hostname in _LOOPBACK | {host.lower()}
    except ValueError:
        return False


def _import_what_pages_need() -> None:
    """Import what the threads of the first page would otherwise import at once, and may find half imported.

    Plotly, for one, asks whether pandas is loaded, and takes a pandas that another thread is just loading for whole.
    """
    for name in ("pandas", "plotly.graph_objects", "plotly.subplots", "scipy.stats", "anytask.bench.report"):
        import_module(name)


def _why_not(host: str, port: int, error: OSError) -> str:
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as other:
            other.bind((host, 0))
            free = other.getsockname()[1]
    except OSError:
        return f"the address {host} cannot be served from this machine ({error.strerror or error})"
    return f"port {port} of {host} cannot be used ({error.strerror or error}); port {free} is free: --port {free}"


def _frame() -> Any:
    """What all pages have in common."""
    brand, nav = dcc.Link("anytask", href="/", className="brand"), html.Nav(id="nav", **{"aria-label": "Pages"})
    return html.Div(
        [
            html.A("Skip to the content", href="#page", className="skip"),
            dcc.Location(id="url", refresh="callback-nav"),
            html.Header(html.Div([brand, nav], className="bar"), className="top"),
            html.Main(id="page", tabIndex="-1"),
        ]
    )


def _register_navigation(app: dash.Dash, settings: Settings, pages: Sequence[Page]) -> None:
    by_path = {page.path: page for page in pages}

    @app.callback(Output("page", "children"), Output("nav", "children"), Input("url", "pathname"))
    def open_page(path: str | None) -> tuple[Any, Any]:
        page = by_path.get((path or "/").rstrip("/") or "/")
        links = [
            dcc.Link(other.title, href=other.path, className="here", title=f"{other.title} (this page)")
            if other is page else dcc.Link(other.title, href=other.path, title=other.title)
            for other in pages
        ]  # fmt: skip
        if page is None:
            lost = [html.H1("No such page"), html.P(["There is nothing at ", html.Code(path), "."])]
            return html.Div(lost, className="narrow"), links
        return page.layout(settings), links

    app.clientside_callback(
        ClientsideFunction("anytask", "showTitle"),
        Output("nav", "title"),
        Input("nav", "children"),
    )


def _protect(app: dash.Dash, host: str, paths: Sequence[str]) -> None:
    """Answer only to names of this machine, say what is not there, and let the browser load from here alone."""
    scripts = " ".join(f"'{digest}'" for digest in (item.strip("'") for item in app.csp_hashes()))
    policy = (
        f"default-src 'self'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    )

    @app.server.before_request
    def check_request() -> None:
        if not answers_to(host, request.host):
            abort(403, "this application answers only at the address it was started for")
        if request.method == "POST":
            call = request.get_json()
            if not isinstance(call, dict) or call.get("output") not in list(app.callback_map):
                abort(400, "this is no call of a callback of this application")

    @app.server.errorhandler(DashException)
    def refuse(error: DashException) -> tuple[str, int]:
        """A file that Dash does not have, or a call that fits none of the callbacks."""
        return ("not found", 404) if request.method == "GET" else ("bad request", 400)

    @app.server.after_request
    def restrict(response: Response) -> Response:
        if (
            request.path.rstrip("/") not in ("", *paths)
            and request.url_rule
            and request.url_rule.rule == "/<path:path>"
        ):
            response.status_code = 404  # the page that says so
        response.headers.setdefault("Content-Security-Policy", policy)  # a page in a frame has one of its own
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response
