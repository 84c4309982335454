"""Format commands of kd-offline, for reports that state how a result was made."""

from __future__ import annotations

import shlex


def command_text(*words: object, **options: object) -> str:
    """Return a command as one types it, such as ``kd-offline evaluate 'my run' --seed 1``.

    Parameters
    ----------
    words
        Name and arguments of the command.
    options
        By the names of the command's options. True stands for the option alone, None and False for
        none; values of a list repeat the option.
    """
    return shlex.join(["kd-offline", *map(str, words), *option_words(**options)])


def option_words(**options: object) -> list[str]:
    """Return the words of options, see :func:`command_text`."""
    words: list[str] = []
    for name, given in options.items():
        flag = f"--{name.replace('_', '-')}"
        for value in given if isinstance(given, list | tuple) else [given]:
            if value is True:
                words.append(flag)
            elif value is not None and value is not False:
                words += [flag, str(value)]
    return words
