"""A reward of your own in the arena of appendix 04c, in a terminal: `make arena`.

    make arena REWARD=./my_rewards.py:accuracy

Executes the appendix with that reward, from the stage `sft` of COURSE_HOME, and prints
what it shows: which cheats are paid, and what a model found that was trained on it.
"""

from grpo_course.ground import stages
from tools.run import nbtools, run_course


def shown(notebook: nbtools.nbformat.NotebookNode) -> str:
    """The outputs of a notebook, as text."""
    outputs = [
        output for cell in nbtools.code_cells(notebook) for output in cell.outputs
    ]
    texts = [o.get("text") or o.get("data", {}).get("text/plain") for o in outputs]
    return "\n\n".join(nbtools.clean_text(text).strip("\n") for text in texts if text)


def main() -> None:
    (path,) = nbtools.FOLDER.glob("04c_*.ipynb")
    with run_course.guarded(stages.home()) as run:
        print(shown(run(path)))


if __name__ == "__main__":
    main()
