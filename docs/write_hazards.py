"""Write the table of hazards from the tests: hazard, behaviour, code, test.

    python docs/write_hazards.py

A test names what it makes with ``@pytest.mark.hazard(number, behaviour)``. The codes are the
reasons that its body or its parameters name, and the words in backticks of its behaviour.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "docs" / "hazards.md"

# As numbered in the design.
HAZARDS = {
    1: "several series in one folder", 2: "localizers and strays", 3: "missing slices",
    4: "duplicate positions", 5: "changing spacing", 6: "gantry tilt", 7: "several phases, 4D",
    8: "reformats", 9: "missing position", 10: "wrong matrix in readers",
    11: "NIfTI: qform and sform", 12: "flipped axes", 13: "missing rescale",
    14: "rescaled twice or never", 15: "metadata that disagree", 16: "padding", 17: "NaN",
    18: "values that overflow", 19: "MONOCHROME1", 20: "compressed slices",
    21: "byte order and implicit VR", 22: "pydicom 3", 23: "enhanced multi-frame CT",
    24: "truncated and empty files", 25: "other modalities and objects", 26: "metal",
    27: "table", 28: "body cut by the field of view", 29: "arms", 30: "partial coverage",
    31: "thick slices", 32: "identity of the patient", 33: "dates", 34: "RAD-ChestCT",
    35: "NRRD and MetaImage", 36: "several reconstructions of one scan",
}  # fmt: skip

HEAD = """# Hazards of CT input

What each test makes, what drrgen does with it, and the word that says so: a reason in the row of a
CT that is refused, a warning in the row of one that was repaired. Written by
`python docs/write_hazards.py` from the marks of the tests, and checked by one.

| hazard | behaviour | code | test |
| --- | --- | --- | --- |
"""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Line:
    """A line of the table."""

    number: int
    path: str
    line: int
    behaviour: str
    codes: tuple[str, ...]
    test: str


def find_lines() -> list[Line]:
    """Find the marks of all tests."""
    return sorted(
        line for path in sorted((ROOT / "tests").rglob("test_*.py")) for line in _read_marks(path)
    )


def write_table() -> str:
    """Write the page."""
    rows = [
        f"| {line.number} {HAZARDS[line.number]} | {line.behaviour} "
        f"| {', '.join(f'`{code}`' for code in line.codes)} | `{line.path}::{line.test}` |\n"
        for line in find_lines()
    ]
    return HEAD + "".join(rows)


def _read_marks(path: Path) -> Iterator[Line]:
    """Read the marks of a file's tests, on the test or on one of its parameters."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tests = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for test in tests:
        marks = [call for call in _find_calls(test) if _is_mark(call)]
        params = [call for call in _find_calls(test) if _ends_with(call.func, "param")]
        for mark in marks:
            owner = next((p for p in params if mark in ast.walk(p)), test)
            number, behaviour = (ast.literal_eval(value) for value in mark.args)
            yield Line(
                number=number, path=path.relative_to(ROOT / "tests").as_posix(), line=mark.lineno,
                behaviour=behaviour.replace("|", "\\|"),
                codes=_find_codes(owner, behaviour), test=test.name,
            )  # fmt: skip


def _find_calls(node: ast.AST) -> list[ast.Call]:
    """Find all calls below a node."""
    return [each for each in ast.walk(node) if isinstance(each, ast.Call)]


def _is_mark(call: ast.Call) -> bool:
    """Say whether a call is ``pytest.mark.hazard(...)``."""
    return ast.unparse(call.func) == "pytest.mark.hazard" and len(call.args) == 2


def _ends_with(node: ast.AST, name: str) -> bool:
    """Say whether a name, or the last part of a dotted one, is this."""
    return ast.unparse(node).rpartition(".")[2] == name


def _find_codes(node: ast.AST, behaviour: str) -> tuple[str, ...]:
    """Find the reasons that a test names, and the words in backticks of its behaviour."""
    reasons = [
        each.attr.lower()
        for each in ast.walk(node)
        if isinstance(each, ast.Attribute) and ast.unparse(each.value) == "Reason"
    ]
    return tuple(dict.fromkeys([*re.findall(r"`(\w+)`", behaviour), *reasons]))


if __name__ == "__main__":
    TABLE.write_text(write_table(), encoding="utf-8")
