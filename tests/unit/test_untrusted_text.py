import json
import re
import shlex
import unicodedata

import pytest

from kd_offline.untrusted_text import (
    for_json,
    for_markdown,
    for_page,
    for_terminal,
    markdown_code,
    markdown_fence,
    quoted_command,
)

TRICKS = [
    *map(chr, range(0x20)),
    *map(chr, range(0x7F, 0xA0)),
    *"\u200b\u200c\u200d\u200e\u200f\u2028\u2029\u202a\u202e\u2066\u2069\ufeff\u00ad\u034f",
    *"\u3164\u2800\ufe0f\ue000\U000e0041\U000e0100\ud800\udfff\u180e\uffa0\ufff9",
]


@pytest.mark.parametrize("trick", TRICKS, ids=ascii)
def test_no_character_that_acts_or_hides_reaches_any_reader(trick):
    text = f"a{trick}b"
    for shown in (for_terminal(text), for_markdown(text), for_page(text)):
        kept = set(shown) - set("\n\t")  # which a page may keep, as white space
        assert trick not in kept
        assert not {unicodedata.category(c) for c in kept} & {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    assert not {"\n", "\t"} & set(for_terminal(text) + for_markdown(text))


def test_ordinary_text_of_any_script_stays_as_it_is():
    text = "réseau 学習 ± 0.5 обучение العربية (v1.2) C:\\data"
    assert for_terminal(text) == text


def test_escapes_are_shown():
    shown = for_terminal("\x1b[31mred\r\nwhole: every check passed\u202e\x9b")
    assert shown == "\\x1b[31mred\\r\\nwhole: every check passed\\u202e\\x9b"


def test_long_text_is_cut_and_says_so():
    assert for_terminal("a" * 5000) == "a" * 4000 + "... (5,000 characters)"
    assert for_terminal("abcdef", limit=3) == "abc... (6 characters)"


MARKUP = {
    "tag": "<img src=x onerror=alert(1)>",
    "entity": "&lt;b&gt;",
    "image": "![x](http://example.org/x.png)",
    "link": "[click](javascript:alert(1))",
    "autolink": "<http://example.org>",
    "bare address": "see https://example.org and www.example.org",
    "mail": "write to someone@example.org",
    "emphasis": "**loud** _very_ __so__ ~~no~~",
    "code": "`` ` ``",
    "row": "a | b |\n| --- |",
    "heading": "# Trusted by its makers",
    "rule": "---",
    "list": "- one",
    "numbers": "1. one",
    "quote": "> said",
    "mathematics": "$\\sum$",
    "fence": "```\nrm -rf /\n```",
    "reference": "[a]: http://example.org",
}


@pytest.mark.parametrize("name", MARKUP)
def test_markdown_shows_markup_literally(name):
    shown = for_markdown(MARKUP[name])
    assert "\n" not in shown
    assert not set("<>@$~") & set(shown)
    assert "://" not in shown
    assert "www." not in shown
    bare = shown
    assert not re.search(r"(?<!\\)\]\s*[(\[:]", shown)
    for character in "\\`*]|_#-":
        bare = bare.replace(f"\\{character}", "")
    assert not set("`*|_") & set(bare)
    assert bare[:1] not in {"#", "-", "+"} or not bare[1:2].isspace()
    assert "1. " not in bare


def test_markdown_leaves_names_and_numbers_alone():
    for text in (
        "[0.1, 0.2] and x[3]",
        "agent_0",
        "mpe/simple_spread_v3",
        "-20.3 to 1.5",
        "CC-BY-4.0",
        "a, b (c)",
    ):
        assert for_markdown(text) == text


def test_a_code_span_or_fence_cannot_be_left():
    assert markdown_code("a=b") == "`a=b`"
    assert markdown_code("a`b|c\n<i>") == "a\\`b\\|c &lt;i&gt;"
    assert markdown_fence("x\n```` \x1b") == ["`````", "x", "```` \\x1b", "`````"]


def test_a_command_of_others_runs_nothing_else():
    assert quoted_command("kd-offline evaluate 'my run' --seed 0") == (
        "kd-offline evaluate 'my run' --seed 0"
    )
    for tail in ("; rm -rf /", "| sh", "$(id)", "`id`", "> ~/.bashrc", "&& id", "\nid"):
        words = shlex.split(quoted_command(f"kd-offline evaluate run {tail}"))
        assert words[:3] == ["kd-offline", "evaluate", "run"]
        assert not {";", "|", "&", "`", "$", ">"} & set(
            re.sub(r"'[^']*'", "", quoted_command(f"kd-offline evaluate run {tail}"))
        )
    for text in ("rm -rf /", "PYTHONPATH=. kd-offline evaluate run", "kd-offline 'open", ""):
        assert quoted_command(text) == ""


def test_a_json_document_is_ascii_and_means_the_same():
    text = json.dumps({"é\x7f": "中😀\u202e\x9b\n"}, ensure_ascii=False, indent=2)
    shown = for_json(text)
    assert shown.isascii()
    assert "\x7f" not in shown
    assert json.loads(shown) == json.loads(text)
