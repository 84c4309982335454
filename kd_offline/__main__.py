"""Run the command line: ``python -m kd_offline`` is ``kd-offline``."""

from kd_offline.cli.app import main

if __name__ == "__main__":
    main()
