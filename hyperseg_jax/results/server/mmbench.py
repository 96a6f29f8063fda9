"""MMBench: a spreadsheet (xlsx) of index, question, A, B, C, D, prediction; one row for each rotation of a question."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any
from xml.sax.saxutils import escape

from hyperseg_jax.results.server.atomic_zip import atomic_zip

COLUMNS = ("index", "question", "A", "B", "C", "D", "prediction")
_HEAD = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_TYPES = "application/vnd.openxmlformats-officedocument.spreadsheetml"
# The parts of a workbook with one sheet (ECMA-376).
_PARTS = {
    "[Content_Types].xml": f'<Types xmlns="{_PACKAGE}/content-types"><Default Extension="rels" ContentType="application/vnd.'
    'openxmlformats-package.relationships+xml"/><Default Extension="xml" ContentType="application/xml"/>'
    f'<Override PartName="/xl/workbook.xml" ContentType="{_TYPES}.sheet.main+xml"/>'
    f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{_TYPES}.worksheet+xml"/></Types>',
    "_rels/.rels": f'<Relationships xmlns="{_PACKAGE}/relationships"><Relationship Id="rId1" Type="{_OFFICE}/officeDocument" '
    'Target="xl/workbook.xml"/></Relationships>',
    "xl/workbook.xml": f'<workbook xmlns="{_MAIN}" xmlns:r="{_OFFICE}"><sheets><sheet name="Sheet1" sheetId="1" r:id="rId1"/>'
    "</sheets></workbook>",
    "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{_PACKAGE}/relationships"><Relationship Id="rId1" '
    f'Type="{_OFFICE}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>',
}


_IN_XML = re.compile("[\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""The characters allowed in XML 1.0."""


def write(path: pathlib.Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes the answers.

    rows: mappings with COLUMNS as keys; index is a number, and options that a question lacks may be missing. Raises ValueError
    for a duplicate index.
    """
    lines, indices = [_row_xml(COLUMNS)], set()
    for row in rows:
        if row["index"] in indices:
            raise ValueError(f"index {row['index']} is answered twice")
        indices.add(row["index"])
        lines.append(_row_xml([row.get(name, "") for name in COLUMNS]))
    with atomic_zip(path) as file:
        for name, content in _PARTS.items():
            file.writestr(name, _HEAD + content)
        file.writestr(
            "xl/worksheets/sheet1.xml", f'{_HEAD}<worksheet xmlns="{_MAIN}"><sheetData>{"".join(lines)}</sheetData></worksheet>'
        )


def _row_xml(values: Iterable[Any]) -> str:
    return f"<row>{''.join(map(_cell_xml, values))}</row>"


def _cell_xml(value: Any) -> str:
    if isinstance(value, int):
        return f"<c><v>{value}</v></c>"
    text = "".join(sign for sign in str(value) if _IN_XML.match(sign))
    return f'<c t="inlineStr"><is><t xml:space="preserve">{escape(text)}</t></is></c>'
