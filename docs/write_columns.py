"""Write the table of columns into the README."""

from pathlib import Path

from drrgen.manifest import describe_schema

START, END = "<!-- columns: written by make docs -->\n", "<!-- end of columns -->\n"


def fill(text: str) -> str:
    """Put the table between its two marks."""
    head, _, rest = text.partition(START)
    return head + START + describe_schema() + END + rest.partition(END)[2]


if __name__ == "__main__":
    path = Path(__file__).parents[1] / "README.md"
    path.write_text(fill(path.read_text(encoding="utf-8")), encoding="utf-8")
