"""docs/extending.md, carried out: in a copy of the project each section's code is written and its commands are run.

A section (`## ...`) is taken as it stands; so a new one needs no new test. It may hold two kinds of blocks:

- ```python: code of the file that the last `path/in/backticks.py` above the block names. A file that the project does
  not have is written. To a file that it has, imports are added below the imports, and the lines between the opening
  line of a table (`TABLE = {` or `TABLE = (`, as the file has it) and the closing bracket are added to that table; a
  line `...` stands for the others.
- ```console: commands after `$ `, which begin with `python`; lines below a command have to be part of what it prints.
  Where they begin with the name of the program and a colon the input is refused: exit code 2, one line on stderr.

Training is cut to a few steps.
"""

import ast
import itertools
import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.helpers.starts import Outcome, arguments, run

SHORT = arguments("train.max_steps=3")  # the data that the project ships, no pictures, one thread
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"`([\w/]+\.py)`")


def sections() -> dict[str, str]:
    """Return the text of each section that has code, by its heading."""
    text = (ROOT / "docs" / "extending.md").read_text()
    found = dict(part.split("\n", 1) for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:])
    return {heading: body for heading, body in found.items() if BLOCK.search(body)}


def add_lines(path: Path, code: str) -> None:
    """Add the imports and the table lines of a block to a file."""
    lines, block = path.read_text().splitlines(), code.splitlines()
    for opening in (line for line in block if line.endswith(("{", "(", "[")) and not line.startswith(" ")):
        inside = itertools.takewhile(lambda line: line not in ("}", ")", "]"), block[block.index(opening) + 1 :])
        (place,) = (place for place, line in enumerate(lines, start=1) if line.startswith(opening))
        lines[place:place] = [line for line in inside if line.strip(" ,") != "..."]
    imports = [node for node in ast.parse("\n".join(lines)).body if isinstance(node, ast.Import | ast.ImportFrom)]
    end = imports[-1].end_lineno
    lines[end:end] = [line for line in block if line.startswith(("import ", "from "))]
    path.write_text("\n".join(lines) + "\n")


def write_code(body: str, project: Path) -> None:
    """Write each block of Python where the text above it says."""
    for block in BLOCK.finditer(body):
        if block[1] == "python":
            path = project / FILE.findall(body[: block.start()])[-1]
            if path.exists():
                add_lines(path, block[2])
            else:
                path.parent.mkdir(exist_ok=True)
                path.write_text(block[2])


def commands(body: str) -> list[tuple[list[str], list[str]]]:
    """Return the words of each command of a section, and the lines that it is to print."""
    found: list[tuple[list[str], list[str]]] = []
    for line in "".join(block[2] for block in BLOCK.finditer(body) if block[1] == "console").splitlines():
        if line.startswith("$ "):
            python, *words = shlex.split(line[2:])
            assert python == "python"
            found.append((words, []))
        else:
            found[-1][1].append(line)
    return found


def carry_out(words: list[str], project: Path) -> Outcome:
    more = SHORT if words[0] == "train_ddp.py" else []
    return run(*words, *more, real=True, cwd=project, env={"PYTHONPATH": str(project)})


@pytest.mark.parametrize("heading", sections())
def test_a_section_does_what_it_says(heading: str, tmp_path: Path) -> None:
    body = sections()[heading]
    for name in ("vae", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "train_ddp.py", tmp_path)
    write_code(body, tmp_path)
    assert commands(body)
    for words, expected in commands(body):
        done = carry_out(words, tmp_path)
        refused = bool(expected) and expected[0].startswith(("train_ddp.py: ", "python -m vae: "))
        assert done.code == (2 if refused else 0), (words, done.err)
        printed = done.line if refused else done.out
        assert [line for line in expected if line not in printed] == [], printed
