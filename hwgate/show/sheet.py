"""Tables that look alike on the terminal and on a page."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from hwgate.show.tables import new_table

__all__ = ["Sheet"]


@dataclass(frozen=True)
class Sheet:
    """A table; the first ``left`` columns are words, those with a number in ``folded`` many."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1
    bold: str = ""
    folded: Sequence[int] = ()

    def for_terminal(self) -> Table:
        """The table in the look of the command line; rows that start with ``bold`` stand out."""
        table = new_table(self.title, *self.columns, left=self.left)
        for index in self.folded:
            table.columns[index].no_wrap = False
        for row in self.rows:
            table.add_row(*row, style="bold" if self.bold and row[0].startswith(self.bold) else "")
        return table

    def for_page(self) -> str:
        """The table in Markdown."""
        rule = ["---" if index < self.left else "---:" for index in range(len(self.columns))]
        lines = [[column.replace("\n", " ") for column in self.columns], rule, *self.rows]
        return "\n".join([f"{self.title}:", "", *(f"| {' | '.join(line)} |" for line in lines)])
