"""A hook of the site: links from a page to files beside docs/ lead to the repository."""

from __future__ import annotations

import posixpath
import re
from typing import Any

_LINK = re.compile(r"(\[(?:[^\]\[]|\[[^\]]*\])*\]\()([^)\s]+)(\))")
_FENCE = re.compile(r"^(```|~~~)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Called by MkDocs for each page before it is rendered."""
    folder = posixpath.dirname(page.file.src_uri)
    base = f"{config['repo_url'].rstrip('/')}/blob/main/"

    def outside(match: re.Match[str]) -> str:
        target, _, anchor = match[2].partition("#")
        if not target or "://" in target:
            return match[0]
        place = posixpath.normpath(posixpath.join("docs", folder, target))
        if place == "docs" or place.startswith("docs/"):
            return match[0]
        return f"{match[1]}{base}{place}{'#' + anchor if anchor else ''}{match[3]}"

    # A link of prose may go over the end of a line; what is in a fence is no link.
    parts, fenced, kept = [], False, []
    for line in markdown.splitlines(keepends=True):
        if _FENCE.match(line):
            if not fenced:
                parts.append(_LINK.sub(outside, "".join(kept)))
                kept = []
            kept.append(line)
            if fenced:
                parts.append("".join(kept))
                kept = []
            fenced = not fenced
        else:
            kept.append(line)
    parts.append("".join(kept) if fenced else _LINK.sub(outside, "".join(kept)))
    return "".join(parts)
