"""Put the pages together, and serve them to this machine."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dash
from dash import Input, Output, dcc, html
from flask import Response, abort, request

from anytask.app.catalogue import page as catalogue_page
from anytask.app.nero import page as nero_page
from anytask.app.nero.data import NeroLibrary
from anytask.app.results import page as results_page
from anytask.app.settings import Settings

logger = logging.getLogger(__name__)

__all__ = ["PAGES", "Page", "Settings", "make_app", "serve"]


@dataclass(frozen=True)
class Page:
    """One page of the application.

    Attributes
    ----------
    path : str
        Where it is found, such as ``"/results"``.
    title : str
        Its name in the navigation and in the browser's title.
    layout : callable
        ``layout(settings) -> component``: made anew each time the page is opened.
    register : callable
        ``register(app, settings)``: adds the page's callbacks to the Dash application, once, at its start.
    """

    path: str
    title: str
    layout: Callable[[Settings], Any]
    register: Callable[[dash.Dash, Settings], None]


#: The pages, in the order of the navigation. A new page is one more line here.
PAGES: tuple[Page, ...] = (
    Page("/", "Catalogue", catalogue_page.layout, catalogue_page.register),
    Page("/results", "Results", results_page.layout, results_page.register),
    Page("/nero", "NERO", nero_page.layout, nero_page.register),
)

#: Hosts that only this machine can reach.
_LOOPBACK = ("127.0.0.1", "localhost", "::1")

_INDEX = """<!DOCTYPE html>
<html lang="en">
<head>
{%metas%}
<title>{%title%}</title>
<link rel="icon" href="data:,">
{%css%}
</head>
<body>
{%app_entry%}
<footer>{%config%}{%scripts%}{%renderer%}</footer>
</body>
</html>"""


def make_app(
    store: str | os.PathLike[str] = "anytask-runs.sqlite",
    *,
    host: str = "127.0.0.1",
    meaning: bool = True,
    nero: Sequence[str | os.PathLike[str]] = (),
    results: Mapping[str, Any] | Sequence[Any] = (),
) -> dash.Dash:
    """Return the application, ready to be served.

    Parameters
    ----------
    store : path, default "anytask-runs.sqlite"
        The store of runs whose comparisons the results page shows; it need not exist yet.
    host : str, default "127.0.0.1"
        The address it will be served at. At a loopback address only requests that name this machine are answered, so
        that no page of another origin can reach it under a name of its own.
    meaning : bool, default True
        Search the catalogue by meaning where ``anytask[text]`` is installed; False goes by words, and loads no model.
    nero : sequence of path
        Folders of saved NERO results for the NERO page.
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
    settings = Settings(Path(store), meaning=meaning, nero=NeroLibrary(nero, results))
    app = dash.Dash(
        "anytask.app",
        assets_folder=str(Path(__file__).parent / "assets"),
        serve_locally=True,
        title="anytask",
        update_title="",
        index_string=_INDEX,
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
    for page in PAGES:
        page.register(app, settings)
    _register_navigation(app, settings)
    _protect(app, host)
    return app


def serve(
    store: str | os.PathLike[str] = "anytask-runs.sqlite",
    *,
    host: str = "127.0.0.1",
    port: int = 8050,
    meaning: bool = True,
    nero: Sequence[str | os.PathLike[str]] = (),
    results: Mapping[str, Any] | Sequence[Any] = (),
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve the application until ``KeyboardInterrupt``, which Ctrl-C raises.

    Parameters
    ----------
    store, host, meaning, nero, results
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

    app = make_app(store, host=host, meaning=meaning, nero=nero, results=results)
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
    >>> is_loopback("localhost"), is_loopback("127.0.0.5"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    return host in _LOOPBACK or host.startswith("127.")


def _import_what_pages_need() -> None:
    """Import what the threads of the first page would otherwise import at once, and may find half imported.

    Plotly, for one, asks whether pandas is loaded, and takes a pandas that another thread is just loading for whole.
    """
    import pandas
    import plotly.graph_objects
    import plotly.subplots
    import scipy.stats

    from anytask.bench import report

    modules = (pandas, plotly.graph_objects, plotly.subplots, scipy.stats, report)
    logger.debug("imported: %s", ", ".join(module.__name__ for module in modules))


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
    return html.Div(
        [
            html.A("Skip to the content", href="#page", className="skip"),
            dcc.Location(id="url", refresh="callback-nav"),
            html.Header(
                html.Div(
                    [dcc.Link("anytask", href="/", className="brand"), html.Nav(id="nav", **{"aria-label": "Pages"})],
                    className="bar",
                ),
                className="top",
            ),
            html.Main(id="page", tabIndex="-1"),
        ]
    )


def _register_navigation(app: dash.Dash, settings: Settings) -> None:
    by_path = {page.path: page for page in PAGES}

    @app.callback(Output("page", "children"), Output("nav", "children"), Input("url", "pathname"))
    def open_page(path: str | None) -> tuple[Any, Any]:
        page = by_path.get((path or "/").rstrip("/") or "/")
        links = [
            dcc.Link(
                other.title,
                href=other.path,
                className="here" if other is page else "",
                title=f"{other.title} (this page)" if other is page else other.title,
            )
            for other in PAGES
        ]
        if page is None:
            lost = [html.H1("No such page"), html.P(["There is nothing at ", html.Code(path), "."])]
            return html.Div(lost, className="narrow"), links
        return page.layout(settings), links

    titles = {page.path: f"{page.title} · anytask" for page in PAGES}
    app.clientside_callback(
        f"function (path) {{ document.title = ({json.dumps(titles)})[path] || 'anytask';"
        " return window.dash_clientside.no_update; }",
        Output("nav", "title"),
        Input("url", "pathname"),
    )


def _protect(app: dash.Dash, host: str) -> None:
    """Answer only to this machine's own names, and let the browser load from here alone."""
    scripts = " ".join(f"'{digest}'" for digest in (item.strip("'") for item in app.csp_hashes()))
    policy = (
        f"default-src 'self'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    )

    @app.server.before_request
    def only_by_our_names() -> None:
        name = request.host.rsplit(":", 1)[0] if request.host.count(":") == 1 else request.host
        if is_loopback(host) and not is_loopback(name.split("]")[0].strip("[]")):
            abort(403, "this application answers only at the address it was started for")

    @app.server.after_request
    def restrict(response: Response) -> Response:
        response.headers.setdefault("Content-Security-Policy", policy)  # a page in a frame has one of its own
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response
