import pytest

from kd_offline.strict_json import parse


@pytest.mark.timeout(20)
def test_a_repeated_key_among_many_is_found_in_one_pass():
    # A search that compares every key with every other takes some 10^10 steps here.
    keys = [f'"{number}":0' for number in range(100_000)]
    with pytest.raises(ValueError, match="it has the key '99999' twice"):
        parse(("{" + ",".join([*keys, keys[-1]]) + "}").encode())


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"b]":', "[0,"])
def test_64_levels_are_read_and_65_are_refused(opening):
    closing = "".join({"[": "]", "{": "}"}[c] for c in reversed(opening) if c in "[{")
    levels = len(closing)
    text = f'{opening * (64 // levels)}"[[\\"[{{\\\\"{closing * (64 // levels)}'
    parse(text.encode())
    with pytest.raises(ValueError, match="more than 64 levels"):
        parse(f"[{text}]".encode())
    with pytest.raises(ValueError, match="more than 64 levels"):
        parse(f'{{"a": {text}, "b": 1}}'.encode())


@pytest.mark.timeout(20)
def test_the_depth_of_a_wide_text_is_found_in_one_pass():
    parse(("[" + ",".join(["[[[[]]]]"] * 200_000) + "]").encode())


@pytest.mark.parametrize(
    "text",
    [
        b'{"a": 1, "a": 2}',
        b'{"a": NaN}',
        b"[Infinity]",
        b"1e400",
        b"123456789012345678901",
        b"[" * 65 + b"]" * 65,
        b"[" * 100_000,
        b'"\\u0000"',
        b'{"\\u001b": 1}',
        b'"\\ud800"',
        b'"\\u2066"',
        b'"\x7f"',
        '"ü"'.encode(),
        b"{",
        b"",
    ],
)
def test_json_that_is_not_strict(text):
    with pytest.raises(ValueError, match=r"."):
        parse(text)


def test_json_that_is():
    text = b'{"a": [1, 18446744073709551615, -0.5, "\\u00e9 \\ud83d\\ude00\\n\\t\\\\u0000", null]}'
    assert parse(text) == {"a": [1, 2**64 - 1, -0.5, "é 😀\n\t\\u0000", None]}
    assert parse(b"[" * 64 + b"]" * 64) is not None
