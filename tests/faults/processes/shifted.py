"""Runs a real process of ours on a host whose clock is off.

python -m tests.faults.processes.shifted SECONDS MODULE [ARGUMENT …]      e.g. 3600 worker.ticker
"""

import runpy
import sys
import time

import time_machine


def main() -> None:
    """Shifts what this process, and those that it forks, take for the time; then becomes the
    module.
    """
    seconds, module, *arguments = sys.argv[1:]
    time_machine.travel(time.time() + float(seconds), tick=True).start()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
