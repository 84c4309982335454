from pathlib import Path

from kd_offline.cli.deploying import _filled


def test_commands_name_the_folders_and_what_is_in_them():
    places = {"RUN": Path("my run"), "EXPORT": Path("out")}
    said = _filled("kd-offline profile RUN --export RUN/export-int8", places)
    assert said == "kd-offline profile 'my run' --export 'my run/export-int8'"
    assert _filled("kd-offline evaluate RUN --export EXPORT", places).endswith("--export out")
    assert _filled("kd-offline report elsewhere/RUN", places).endswith("elsewhere/RUN")
