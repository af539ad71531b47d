"""A line that shows that a long step is alive."""

from datetime import timedelta

from rich.progress import Progress, ProgressColumn
from rich.table import Column
from rich.text import Text


class StatusLine(Progress):
    """Title, elapsed time and a note; a context manager.

    On a terminal the line is kept up to date; elsewhere (a log, CI) it is printed at
    the end, after its title at the start.
    """

    def __init__(self, title: str) -> None:
        super().__init__(_Line(Column(no_wrap=True, overflow="ellipsis")))
        self._task = self.add_task(title, note="")

    def start(self) -> None:
        if not self.console.is_terminal:
            print(f"  {self.tasks[self._task].description}  ...", flush=True)
        super().start()

    @property
    def note(self) -> str:
        """The end of the line; set it at any time."""
        return self.tasks[self._task].fields["note"]

    @note.setter
    def note(self, text: str) -> None:
        self.update(self._task, note=text)


class _Line(ProgressColumn):
    def render(self, task) -> Text:
        elapsed = timedelta(seconds=int(task.elapsed))
        return Text(f"  {task.description}  {elapsed}  {task.fields['note']}".rstrip())
