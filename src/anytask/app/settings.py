"""What every page is told: the store to show, and the searches and readers that pages share."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from anytask.app.catalogue.search import CatalogueSearch
from anytask.app.nero.data import NeroLibrary
from anytask.app.results.data import StoreView, check_store


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
    view: StoreView = field(init=False)
    search: CatalogueSearch = field(init=False)

    def __post_init__(self) -> None:
        check_store(self.store)
        self.view = StoreView(self.store)
        self.search = CatalogueSearch(self.meaning)
