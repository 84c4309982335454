"""Make untrusted text (of files, servers, user code) safe to print: terminal, Markdown, JSON.

Every name, description and message that a stranger can choose passes through one of these functions
before it is shown. HTML is escaped by the templates, see :mod:`kd_offline.reports.page`.
"""

from __future__ import annotations

import re
import shlex
import unicodedata

# A message may list many allowed names; longer text is of no use on a screen.
_LONGEST = 4000
# Invisible characters of printable categories: fillers, variation selectors, blank Braille.
_INVISIBLE = frozenset(
    map(
        chr,
        (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0, *range(0xFE00, 0xFE10)),
    )
) | frozenset(map(chr, range(0xE0100, 0xE01F0)))
# Most text has none of these, so that pages of a megabyte are passed quickly.
_NOT_PLAIN = re.compile(r"[^ -~]")
_NOT_PLAIN_ON_A_PAGE = re.compile(r"[^ -~\n\t]")
_NAMED = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
# Escaped as entities, since renderers differ in the meaning of a backslash before these.
_ENTITIES = {c: f"&#{ord(c)};" for c in "@$~"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_ESCAPED = frozenset("\\`*|")
# Brackets that start a link, a footnote or a definition; others are text, as in an interval.
_BRACKET = re.compile(r"\](?=\s*[(\[:])|\[(?=\^)")
_LINK = re.compile(r"(?i)\b(https?|ftp|mailto|xmpp):")
_WEB = re.compile(r"(?i)\b(www)\.")
_UNDERSCORE = re.compile(r"(?<!\w)_|_(?!\w)|(?<=_)_|_(?=_)")
_BLOCK = re.compile(r"^(?:(#|[-+](?=\s|$)|[-=](?=[-=\s]*$))|(\d+)([.)])(?=\s|$))")


def for_terminal(text: object, limit: int = _LONGEST) -> str:
    r"""Return ``text`` as one line of visible characters.

    Control characters, changes of writing direction, invisible characters and lone surrogates
    become escapes such as ``\x1b``; line breaks become ``\n``. Text of more than ``limit``
    characters is cut, and the line says so.
    """
    return _NOT_PLAIN.sub(_visible, _cut(str(text), limit))


def for_page(text: str) -> str:
    """Return ``text`` escaped as by :func:`for_terminal`, with its line breaks and tabs."""
    return _NOT_PLAIN_ON_A_PAGE.sub(_visible, text)


def for_markdown(text: object, limit: int = _LONGEST) -> str:
    """Return ``text`` as one line that Markdown shows literally, in a paragraph, list or table.

    Markup, raw HTML, links, images, code, table borders and mathematics are escaped; runs of white
    space become one space.
    """
    line = for_terminal(" ".join(_cut(str(text), limit).split()), limit=10 * limit)
    escaped = "".join(_ENTITIES.get(c, f"\\{c}" if c in _ESCAPED else c) for c in line)
    escaped = _LINK.sub(r"\1&#58;", escaped)
    escaped = _WEB.sub(r"\1&#46;", escaped)
    escaped = _UNDERSCORE.sub(r"\\_", escaped)
    escaped = _BRACKET.sub(r"\\\g<0>", escaped)
    return _BLOCK.sub(lambda m: f"\\{m[1]}" if m[1] else f"{m[2]}\\{m[3]}", escaped)


def markdown_code(text: object) -> str:
    """Return ``text`` as a code span of Markdown; escaped text where no code span can hold it."""
    line = for_terminal(text)
    fits = line == str(text) and line.strip() == line and not set(line) & set("`|") and line
    return f"`{line}`" if fits else for_markdown(text)


def markdown_fence(text: str) -> list[str]:
    """Return the lines of a fenced code block that ``text`` cannot close."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [fence, *map(for_terminal, text.split("\n")), fence]


def quoted_command(text: str) -> str:
    """Return a kd-offline command, quoted for a shell; empty for any other text."""
    try:
        words = shlex.split(text)
    except ValueError:
        return ""
    return for_terminal(shlex.join(words)) if words[:1] == ["kd-offline"] else ""


def for_json(text: str) -> str:
    r"""Return a JSON document in ASCII: every other character becomes its ``\u`` escape."""
    return re.sub(r"[^\x20-\x7e\n]", _json_escape, text)


def _cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    return f"{text[:limit]}... ({len(text):,} characters)"


def _visible(found: re.Match[str]) -> str:
    character = found[0]
    if character in _NAMED:
        return _NAMED[character]
    if unicodedata.category(character) == "Zs":
        return character
    if character.isprintable() and character not in _INVISIBLE:
        return character
    code = ord(character)
    return (
        f"\\x{code:02x}"
        if code < 0x100
        else f"\\u{code:04x}"
        if code < 0x10000
        else f"\\U{code:08x}"
    )


def _json_escape(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[k]:02x}{units[k + 1]:02x}" for k in range(0, len(units), 2))


def without_password(url: str) -> str:
    """Return an address without its password, also where it is no address at all."""
    head, mark, rest = url.rpartition("@")
    scheme, slashes, user = head.partition("://")
    if not mark:
        return re.sub(r"(?i)(password=)[^&]*", r"\1***", url)
    user = user.partition(":")[0] if slashes else "***"
    return f"{scheme if slashes else ''}{slashes}{user}@{without_password(rest)}"
