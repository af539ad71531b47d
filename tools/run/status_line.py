"""A line that shows that a long step is alive."""

from rich.progress import Progress, TextColumn, TimeElapsedColumn
from rich.table import Column


class StatusLine(Progress):
    """Title, elapsed time and a note; a context manager.

    On a terminal the line is kept up to date; elsewhere (a log, CI) it is printed at
    the end.
    """

    def __init__(self, title: str) -> None:
        whole = Column(no_wrap=True, min_width=len(title) + 2)
        cut = Column(no_wrap=True, overflow="ellipsis")
        super().__init__(
            TextColumn(f"  {title}", markup=False, table_column=whole),
            TimeElapsedColumn(table_column=Column(no_wrap=True, min_width=7)),
            TextColumn("{task.fields[note]}", markup=False, table_column=cut),
        )
        self._task = self.add_task(title, note="")

    @property
    def note(self) -> str:
        """What is shown at the end of the line; set it at any time."""
        return self.tasks[self._task].fields["note"]

    @note.setter
    def note(self, text: str) -> None:
        self.update(self._task, note=text)
