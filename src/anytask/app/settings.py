"""What every page is, and what it is told: the store to show, and the searches and readers that pages share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anytask.app.catalogue.search import CatalogueSearch
from anytask.app.nero.data import NeroLibrary
from anytask.app.results.data import StoreView, check_store

if TYPE_CHECKING:
    from dash import Dash


@dataclass
class Settings:
    """What every page is told.

    Parameters
    ----------
    store : Path
        The store of runs.
    meaning : bool, default True
        Whether the catalogue is searched by meaning where that is possible.
    nero : NeroLibrary
        The results that the NERO page offers; default: its example alone.
    answers : Path
        The file of prompt tunings; it need not exist yet.

    Attributes
    ----------
    view : StoreView
        Reads the store.
    search : CatalogueSearch
        Searches the catalogue.

    Raises
    ------
    ValueError
        If the store can never be shown.
    """

    store: Path
    meaning: bool = True
    nero: NeroLibrary = field(default_factory=NeroLibrary)
    answers: Path = Path("anytask-answers.sqlite")
    view: StoreView = field(init=False)
    search: CatalogueSearch = field(init=False)

    def __post_init__(self) -> None:
        check_store(self.store)
        self.view = StoreView(self.store)
        self.search = CatalogueSearch(self.meaning)


@dataclass(frozen=True, kw_only=True)
class Page:
    """One page of the application; a module below :mod:`anytask.app` that sets ``PAGE = Page(...)`` adds it.

    Parameters
    ----------
    path : str
        Where it is found, such as ``"/results"``; a literal, which is read without importing the module.
    title : str
        Its name in the navigation and in the browser's title.
    place : int
        Its place in the navigation, from the left.
    layout : callable
        ``layout(settings) -> component``: made anew each time the page is opened.
    register : callable
        ``register(app, settings)``: adds the page's callbacks to the Dash application, once, at its start.
    """

    path: str
    title: str
    place: int
    layout: Callable[[Settings], Any]
    register: Callable[[Dash, Settings], None]
