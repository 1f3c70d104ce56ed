"""Contents of files, damaged at random."""

from __future__ import annotations

from hypothesis import strategies as st

__all__ = ["damaged"]

# What editors, other systems and bad copies leave in texts, and what binary formats give a meaning.
SNIPPETS = [
    b"\0", b" ", b"\t", b"\n", b"\r", b"\r\n", b"\x0b", b"\x0c", b"\x1c", b"\x85", b'"', b"{", b"[", b"\\ud800", b"1",
    b"r\xff\xff\xff\x7f", b"\xff\xd9", b"\x1f\x8b", b"\xed\xa0\x80", b"\xef\xbb\xbf",
    *(character.encode() for character in "\u00a0\u0085\u2028\u2029\u3000"),
]  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """The content after no change, one or two."""
    for _ in range(draw(st.sampled_from([0, 1, 1, 1, 2]))):
        length = len(content)
        first = draw(st.integers(0, length))
        last = min(length, first + draw(st.integers(0, 40)))
        kind = draw(st.sampled_from(["cut", "change", "insert", "remove", "repeat", "zero", "append", "text"]))
        if kind == "cut":
            content = content[:first]
        elif kind == "change":
            content = content[:first] + draw(st.binary(min_size=1, max_size=2)) + content[first + 1 :]
        elif kind == "insert":
            content = content[:first] + draw(st.sampled_from(SNIPPETS)) + content[first:]
        elif kind == "remove":
            content = content[:first] + content[last:]
        elif kind == "repeat":
            content = content[:last] + content[first:]
        elif kind == "zero":
            content = content[:first] + bytes(last - first) + content[last:]
        elif kind == "append":
            content += draw(st.binary(min_size=1, max_size=20))
        else:
            content = draw(st.sampled_from([_windows, _marked, _old, _wide]))(content)
    return content


def _windows(content: bytes) -> bytes:
    return content.replace(b"\n", b"\r\n")


def _marked(content: bytes) -> bytes:
    return b"\xef\xbb\xbf" + content


def _old(content: bytes) -> bytes:
    return content.replace(b"\n", b"\r")


def _wide(content: bytes) -> bytes:
    return content.decode("latin1").encode("utf-16-le")
