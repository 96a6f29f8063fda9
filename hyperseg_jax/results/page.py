"""A self-contained HTML page of text, tables and images."""

from __future__ import annotations

import base64
import html
import io
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from hyperseg_jax.atomic import write_text
from hyperseg_jax.untrusted import paths
from hyperseg_jax.untrusted.bad_file import naming_path

MAX_IMAGE_BYTES = 2**26
"""Maximum bytes of an embedded image file."""

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, sans-serif; color: #1c2330; background: #fff;
  max-width: 980px; margin: 2.5rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.9rem; margin-bottom: .3rem; } h2 { font-size: 1.3rem; margin-top: 2.4rem; }
p { max-width: 70ch; } img { max-width: 100%; height: auto; display: block; margin: .8rem 0; }
table { border-collapse: collapse; margin: .8rem 0; }
th, td { padding: .3rem .9rem; border-bottom: 1px solid #d9dee6; text-align: left; }
td:not(:first-child), th:not(:first-child) { text-align: right; font-variant-numeric: tabular-nums; }
pre { background: #f3f5f8; padding: .8rem 1rem; overflow-x: auto; border-radius: 6px; }
figure { margin: 1rem 0; } figcaption { color: #5a6475; font-size: .9rem; } strong.big { font-size: 1.5rem; }
"""


class Page:
    """An HTML page that is built part by part."""

    def __init__(self, title: str) -> None:
        self._title, self._parts = title, [f"<h1>{html.escape(title)}</h1>"]

    def heading(self, text: str) -> None:
        self._parts.append(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str) -> None:
        self._parts.append(f"<p>{html.escape(text)}</p>")

    def headline_number(self, text: str) -> None:
        """Adds a headline number."""
        self._parts.append(f'<p><strong class="big">{html.escape(text)}</strong></p>')

    def code(self, text: str) -> None:
        self._parts.append(f"<pre>{html.escape(text)}</pre>")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        row = lambda cells, tag: "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"
        self._parts.append("<table>" + row(header, "th") + "".join(row(cells, "td") for cells in rows) + "</table>")

    def image(self, image: np.ndarray | pathlib.Path, caption: str) -> None:
        """Embeds an image: uint8 [H, W, 3] or a PNG file."""
        if isinstance(image, pathlib.Path):
            with naming_path(image):
                data = paths.read_file(paths.check_link(image), MAX_IMAGE_BYTES)
        else:
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, format="PNG")
            data = buffer.getvalue()
        source = "data:image/png;base64," + base64.b64encode(data).decode()
        escaped = html.escape(caption)
        self._parts.append(f'<figure><img src="{source}" alt="{escaped}"><figcaption>{escaped}</figcaption></figure>')

    def save(self, path: pathlib.Path) -> None:
        """Writes the page atomically."""
        head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(self._title)}</title>'
        write_text(path, f"{head}<style>{STYLE}</style><body>{''.join(self._parts)}</body></html>\n")
