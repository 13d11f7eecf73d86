"""Whether anything of what was to stay off a disk is on it: every byte of every file below a directory is looked at."""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote


@dataclass(frozen=True, slots=True)
class Trace:
    """Personal data in a file, or in its name."""

    path: Path
    text: str


def traces(directory: Path, texts: Iterable[str]) -> list[Trace]:
    """Every one of `texts` that is in a file below, in any case: as UTF-8 or UTF-16, as JSON or a URL writes it, in
    Base64, without its separators, or in what zlib packed."""
    looked_for = [(text, _spellings(text)) for text in texts]
    found = []
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        content = b"\n".join((str(path.relative_to(directory)).encode(), path.read_bytes(), *_unpacked(path)))
        content = re.sub(rb"\0{16,}", b"\0", content).lower()  # files that were made long beforehand
        squeezed = re.sub(rb"[ .()/-]", b"", content)
        found += [
            Trace(path, text)
            for text, (spellings, bare) in looked_for
            if any(spelling in content for spelling in spellings) or (bare and bare in squeezed)
        ]
    return found


def _spellings(text: str) -> tuple[set[bytes], bytes]:
    """How a text may be written, in small letters where they are ASCII, and what is left of a long one without
    separators."""
    spellings: set[bytes] = set()
    for cased in {text, text.lower(), text.upper()}:
        plain = cased.encode()
        spellings |= {
            plain,
            cased.encode("utf-16-le"),
            json.dumps(cased)[1:-1].encode(),
            quote(cased, safe="").encode(),
        }
        if len(plain) >= 9:
            spellings |= {base64.b64encode(b" " * shift + plain)[shift and 4 : -4] for shift in range(3)}
    bare = re.sub(rb"[ .()/-]", b"", text.lower().encode())
    return {spelling.lower() for spelling in spellings}, bare if len(bare) >= 8 else b""


def _unpacked(path: Path) -> list[bytes]:
    content = path.read_bytes()
    parts = []
    for match in re.finditer(rb"\x78[\x01\x5e\x9c\xda]|\x1f\x8b\x08", content):
        try:
            parts.append(zlib.decompressobj(47).decompress(content[match.start() :]))
        except zlib.error:
            continue
    return parts
