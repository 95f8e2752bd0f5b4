"""How programs refuse a mistake: with one line and an exit code."""

import pytest


def refusal(capsys, function, *arguments, code=2):
    """The line with which the call ends the program."""
    with pytest.raises(SystemExit) as exit:
        function(*arguments)
    line = capsys.readouterr().err
    assert exit.value.code == code, line
    assert line.count("\n") == 1, line
    return line
