"""Run the notebooks and keep their outputs, clean and small: `make notebooks`.

    python -m tools.run.rewrite_notebooks         all, in a new COURSE_HOME
    python -m tools.run.rewrite_notebooks 04 05   and solutions, in the usual

A notebook is rewritten only when all of it has run.
"""

import shutil
import sys

from tools.run import nbtools, run_course


def main() -> None:
    names = sys.argv[1:] or [""]
    home = run_course.stages.home()
    if not sys.argv[1:]:
        home /= "clean-run"
        shutil.rmtree(home, ignore_errors=True)
    with run_course.guarded(home) as environment:
        for folder in (nbtools.FOLDER, nbtools.FOLDER / "solutions"):
            for path in sorted(folder.glob("[0-9]*.ipynb")):
                if path.name.startswith(tuple(names)):
                    copy = home / "executed" / path.relative_to(nbtools.FOLDER)
                    notebook = nbtools.execute(path, copy, environment)
                    nbtools.clean(notebook)
                    nbtools.write(notebook, path)


if __name__ == "__main__":
    main()
