"""Run a program with Go first on its PATH, as this repository compiles with it.

`python -m devcluster.with_go PROGRAM [ARGUMENT…]` installs Go where it is missing.
`python -m devcluster.with_go --here` only tells, by its exit code, whether it is there.
"""

import os
import sys

from devcluster.golang import MINIMUM, GoError, environment, find_go, installed_go


def main(arguments: list[str]) -> None:
    """Become the program, or tell.

    Raises:
        SystemExit: 1 where there is no Go, with what to do where it could not be installed.
    """
    if arguments == ["--here"]:
        raise SystemExit(installed_go(MINIMUM) is None)
    try:
        go = find_go(MINIMUM)
    except GoError as error:
        raise SystemExit(str(error)) from None
    os.environ["PATH"] = f"{go.path.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    os.execvpe(arguments[0], arguments, environment())  # noqa: S606 - without a shell on purpose


if __name__ == "__main__":
    main(sys.argv[1:])
