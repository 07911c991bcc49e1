"""Texts of others without the passwords in them.

Our own texts never hold a connection string: they name its parts. This is for what a driver, the
operating system or an operator wrote.
"""

from __future__ import annotations

import re

# Up to the last "@" of the line: a password that was not percent-encoded may hold one, a blank or a
# quote. Hiding too much is the safe mistake.
_URI_PASSWORD = re.compile(r"(postgres(?:ql)?://[^:/?#@\s]*:).*(?=@)", re.IGNORECASE)
# A quote that is never closed hides the rest, and "&" or a quote within a word ends nothing.
_NAMED_PASSWORD = re.compile(
    r"((?:ssl)?password\s*=\s*)('(?:[^'\\]|\\.)*(?:'|$)|(?:\\.|[^\s\\])+)",
    re.IGNORECASE | re.DOTALL,
)


def redact(text: str) -> str:
    """``text`` with the password of every connection string in it replaced by ``***``."""
    return _NAMED_PASSWORD.sub(r"\1***", _URI_PASSWORD.sub(r"\1***", text))
