"""Images of learning and of behaviour: learning curves, filmstrips and films."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from anytask.core.checks import as_array, as_numbers, check_counts
from anytask.core.colors import color_of, translucent
from anytask.core.errors import check_each, check_flags, instance_of, shown
from anytask.core.files import as_path
from anytask.core.settings import check_number

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from PIL import Image

__all__ = ["filmstrip", "learning_curves"]

_INK, _LINE = "#2b3138", "#e3e7eb"


def learning_curves(
    curves: Mapping[str, tuple[Any, Any]],
    *,
    x_title: str = "environment steps",
    y_title: str = "success rate",
    confidence: float = 0.95,
    names: Sequence[str] | None = None,
    share: bool = True,
) -> go.Figure:
    """Return means over seeds with their confidence intervals, one line per entrant.

    Parameters
    ----------
    curves : mapping of str to (x, values)
        Name -> places (k,) and values (seeds, k) or (k,); NaN where a seed has no value.
    x_title, y_title : str
        Titles of the axes.
    confidence : float, default 0.95
        Of Student's interval of the mean; drawn from two seeds on.
    names : sequence of str or None
        All entrants of the report, so that colors agree between figures; None is the curves' own names.
    share : bool, default True
        The values are shares: the scale is 0 to 1, as percentages, and bands don't leave it.

    Examples
    --------
    >>> figure = learning_curves({"ppo": ([0, 100], [[0.0, 0.8], [0.1, 0.9], [0.0, 1.0]])})
    >>> [round(float(y), 2) for y in figure.data[-1].y]
    [0.03, 0.9]
    """
    import plotly.graph_objects as go
    from scipy.stats import t as student

    instance_of("curves", Mapping, optional=False)(curves)
    if not curves:
        raise ValueError("there are no curves to draw")
    check_number(confidence, "confidence", above=0, below=1)
    check_flags(share=share)
    for name, value in (("x_title", x_title), ("y_title", y_title)):
        instance_of(name, str, optional=False)(value)
    order = list(curves) if names is None else check_each(names, str, "names")
    figure = go.Figure()
    for name, pair in curves.items():
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ValueError(f"a curve must be a pair (x, values), got {shown(pair)} for {name!r}")
        x, values = (as_array(as_numbers(part, f"{name}: {what}"), name) for part, what in zip(pair, ("x", "values")))
        x, table = x.astype(float), np.atleast_2d(values.astype(float))
        if x.ndim != 1 or table.ndim != 2 or table.shape[1] != len(x) or len(x) == 0:
            raise ValueError(f"{name}: values must be (seeds, {len(x)}), got {np.shape(values)}")
        held = ~np.isnan(table).all(0)
        x, table = x[held], table[:, held]
        mean, count = np.nanmean(table, 0), (~np.isnan(table)).sum(0)
        tint, band = color_of(name, order), None
        if (count > 1).any():
            freedom = np.maximum(count - 1, 1)
            half = student.ppf(0.5 + confidence / 2, freedom) * np.nanstd(table, 0) * np.sqrt(1 / freedom)
            low, high = mean - half, mean + half
            band = (low.clip(0, 1), high.clip(0, 1)) if share else (low, high)
        add_curve(
            figure, name, tint, x, mean, band,
            mode="lines+markers" if len(x) <= 40 else "lines",
            marker={"size": 6},
            hovertemplate="%{x}: %{y" + (":.0%" if share else ":.4g") + "}<extra>" + escape(name) + "</extra>",
        )  # fmt: skip
    framed(figure, x_title, y_title, height=380)
    figure.update_layout(hovermode="x unified")
    if share:
        figure.update_yaxes(range=[-0.03, 1.03], tickformat=".0%")
    return figure


def add_curve(
    figure: go.Figure, name: str, tint: str, x: Any, mean: Any, band: tuple[Any, Any] | None = None, **line: Any
) -> None:
    """Add a line to a figure, over a band from a lower to an upper one."""
    if band is not None:
        low, high = band
        figure.add_scatter(
            x=np.concatenate([x, x[::-1]]), y=np.concatenate([high, low[::-1]]), fill="toself", line={"width": 0},
            fillcolor=translucent(tint, 0.16), hoverinfo="skip", showlegend=False, legendgroup=name,
        )  # fmt: skip
    shown = {"mode": "lines", "line": {"color": tint, "width": 2.5}, "legendgroup": name, **line}
    figure.add_scatter(x=x, y=mean, name=escape(name), **shown)


def framed(
    figure: go.Figure, x_title: str | None = None, y_title: str | None = None, *, height: int = 420
) -> go.Figure:
    """Give a figure the look that those of the family share, and return it."""
    figure.update_layout(
        template="plotly_white", font={"color": _INK, "size": 13}, height=height,
        margin={"l": 60, "r": 20, "t": 50, "b": 50},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )  # fmt: skip
    figure.update_xaxes(title=x_title, gridcolor=_LINE, zeroline=False, automargin=True)
    figure.update_yaxes(title=y_title, gridcolor=_LINE, zeroline=False, automargin=True)
    return figure


def strips(films: Mapping[str, str]) -> go.Figure:
    """Draw film strips one below the other.

    Parameters
    ----------
    films : mapping of str to str
        Name -> PNG file as base64 text, as :func:`as_text` returns it.

    Examples
    --------
    >>> film = as_text(filmstrip([np.zeros((32, 32, 3), np.uint8)]))
    >>> len(strips({"ppo": film, "random": film}).data)
    2
    """
    from plotly.subplots import make_subplots

    figure: Any = make_subplots(len(films), 1, subplot_titles=[escape(name) for name in films])
    for row, film in enumerate(films.values(), 1):
        figure.add_image(source=f"data:image/png;base64,{film}", hoverinfo="skip", row=row, col=1)
    framed(figure, height=70 + 170 * len(films))
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return figure


def as_text(image: Image.Image) -> str:
    """Return an image as a small PNG file in base64, as reports keep it."""
    file = io.BytesIO()
    image.convert("RGB").quantize(64).save(file, format="PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def as_frames(frames: Any) -> list[np.ndarray]:
    """Return images (height, width, 3) uint8 as a list, or say which is none."""
    instance_of("frames", Sequence, np.ndarray, optional=False, wanted="a sequence of images")(frames)
    found = [as_array(frame, f"frame {i}") for i, frame in enumerate(frames)]
    if not found:
        raise ValueError("there are no frames to show")
    for i, frame in enumerate(found):
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
            kind = f"{frame.dtype} of shape {frame.shape}"
            raise ValueError(f"frame {i} must be an image (height, width, 3) of uint8, got {kind}")
    return found


def filmstrip(
    frames: Sequence[np.ndarray], images: int = 6, *, height: int = 160, labels: Sequence[str] | None = None
) -> Image.Image:
    """Return evenly spaced images of one episode side by side, each with its step below.

    Parameters
    ----------
    frames : sequence of ndarray (height, width, 3) uint8
        One per step, the first before step 1.
    images : int, default 6
        How many; all if there are fewer.
    height : int, default 160
        Pixels of each image's height; small images are enlarged without smoothing, large ones are smoothed.
    labels : sequence of str or None
        One per frame, in place of "step 3".

    Returns
    -------
    PIL.Image.Image

    Examples
    --------
    >>> strip = filmstrip([np.full((8, 8, 3), v, np.uint8) for v in (0, 100, 200)], 2, height=40)
    >>> strip.size, strip.getpixel((20, 10)), strip.getpixel((70, 10))
    ((92, 62), (0, 0, 0), (200, 200, 200))
    """
    from PIL import Image, ImageDraw, ImageFont

    frames = as_frames(frames)
    check_counts(images=images, height=height)
    if not 16 <= height <= 4320:
        raise ValueError(f"height must be from 16 to 4320 pixels, got {height}")
    instance_of("labels", Sequence, wanted="a sequence of strings")(labels)
    if labels is not None and len(labels) != len(frames):
        raise ValueError(f"one label per frame is wanted, got {len(labels)} for {len(frames)} frames")
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(images, len(frames))).round().astype(int))
    shown = [Image.fromarray(frames[i]).convert("RGB") for i in chosen]
    size = (max(round(shown[0].width * height / shown[0].height), 1), height)
    how = Image.Resampling.NEAREST if height > 2 * shown[0].height else Image.Resampling.LANCZOS
    gap, text = 4, 18
    width = len(shown) * (size[0] + gap) + gap
    strip = Image.new("RGB", (width, height + text + gap), "white")
    pen, font = ImageDraw.Draw(strip), ImageFont.load_default(size=12)
    for place, (i, image) in enumerate(zip(chosen.tolist(), shown)):
        left = gap + place * (size[0] + gap)
        strip.paste(image.resize(size, how), (left, gap))
        label = f"step {i}" if labels is None else labels[i]
        pen.text((left + size[0] / 2, height + gap + text / 2), label, fill=_INK, font=font, anchor="mm")
    return strip


def save_film(path: str | os.PathLike[str], frames: Sequence[np.ndarray], fps: float = 10.0) -> None:
    """Write images as a film that any browser plays: ``.gif``, ``.webp`` or ``.png`` (animated).

    Raises
    ------
    ValueError
        For another ending, no frames, or a frame rate that is not above 0.
    """
    from PIL import Image

    ending = as_path(path).suffix.lower()
    if ending not in (".gif", ".webp", ".png"):
        raise ValueError(f"a film is saved as .gif, .webp or .png, got {str(path)!r}")
    check_number(fps, "fps", above=0)
    images = [Image.fromarray(frame) for frame in as_frames(frames)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0)
