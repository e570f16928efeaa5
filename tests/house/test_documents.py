"""The documents: commands that the programs accept, refusals as they are printed, links and files that are there."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import ROOT
from vae import __main__ as program
from vae.commands import train
from vae.errors import InputError

DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")]
SETTINGS = [*(ROOT / "configs").rglob("*.yaml"), *(ROOT / "launch").glob("*/*")]  # with commands in comments
EXTENDING = "extending.md"  # their pieces exist once their code is there: test_extending.py
TESTS = sorted((ROOT / "tests").glob("*/test_*.py"))
ABOUT_THE_INSTRUMENT = {"cuda/test_instrument.py", "cuda/test_forks.py", "cuda/test_gpu_check.py"}  # not the product
LENGTHS = {"README.md": 130, "ARCHITECTURE.md": 90}  # lines, at most


def code(document: Path) -> str:
    """Return a file's comments, or a document's fenced and indented blocks, with continued lines joined."""
    text = document.read_text()
    if document.suffix == ".md":
        blocks = re.findall(r"^```[a-z]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        blocks += re.findall(r"^ {4}(.*)\n", text, re.MULTILINE)
    else:
        blocks = re.findall(r"^# *(.*)$", text, re.MULTILINE)
    return re.sub(r"\\\n\s*", "", "\n".join(blocks))


def commands(document: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the program, `train` or `vae`, and the arguments of each command of a document that runs one of them."""
    for line in code(document).splitlines():
        found = re.match(r"(?:[\w=./-]+ )+(train_ddp\.py|-m vae)(?: (.*)|)$", line)
        if found and not line.startswith("$"):
            yield ("vae" if "vae" in found[1] else "train"), shlex.split(found[2] or "", comments=True)


COMMANDS = sorted(
    {
        (name, shlex.join(words))
        for path in [*DOCUMENTS, *SETTINGS]
        if path.name != EXTENDING
        for name, words in commands(path)
    }
)


def test_the_documents_have_commands_of_both_programs() -> None:
    assert {name for name, _ in COMMANDS} == {"train", "vae"}
    assert len(COMMANDS) > 90


def read(name: str, words: list[str]) -> None:
    train.read("", words) if name == "train" else program.parse(words)


@pytest.mark.parametrize(("name", "line"), COMMANDS, ids=lambda value: value)
def test_a_command_in_a_document_is_accepted(
    name: str, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    if "--help" in line.split():
        with pytest.raises(SystemExit, match=r"^0$"):
            read(name, shlex.split(line))
        assert capsys.readouterr().out
    else:
        read(name, shlex.split(line))


def refusals() -> Iterator[tuple[str, str]]:
    """Yield each command that a document shows being refused, and the line that it shows."""
    for document in (path for path in DOCUMENTS if path.name != EXTENDING):
        yield from re.findall(r"^\$ python train_ddp\.py (.*)\n(train_ddp\.py: .*)$", code(document), re.MULTILINE)


@pytest.mark.parametrize(("line", "shown"), list(refusals()))
def test_a_refusal_in_a_document_is_what_is_printed(line: str, shown: str) -> None:
    with pytest.raises(InputError) as refused:
        read("train", shlex.split(line))
    assert f"train_ddp.py: {refused.value}" == shown


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files_and_headings_that_are_there(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, heading = target.partition("#")
        path = document.parent / name if name else document
        assert path.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            assert heading in [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings], target


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if path.name != EXTENDING], ids=lambda p: p.name)
def test_files_that_a_document_names_are_there(document: Path) -> None:
    names = re.findall(r"`((?:vae|tests|configs|launch|benchmarks|docs)/[\w/.-]+)`", document.read_text())
    assert not [name for name in names if not (ROOT / name).exists() and name == name.lower()]


@pytest.mark.parametrize(("name", "most"), list(LENGTHS.items()))
def test_what_is_read_first_stays_short(name: str, most: int) -> None:
    assert len((ROOT / name).read_text().splitlines()) <= most


def test_the_table_of_what_has_run_where_names_tests_that_do() -> None:
    """Each test file under its heading: those for a real card hold tests marked gpu, and none of these is left out."""
    text = (ROOT / "docs/running.md").read_text().split("### What has run where")[1].split("\n## ")[0]
    rows = [line.split("|")[2:5] for line in text.splitlines() if line.startswith("| ")][1:]
    cpu, fake, card = (re.findall(r"`(\w+/test_\w+\.py)`", "".join(column)) for column in zip(*rows, strict=True))
    everywhere = {path.relative_to(ROOT / "tests").as_posix(): path.read_text() for path in TESTS}
    assert {*cpu, *fake, *card} <= everywhere.keys()
    assert not [name for name in cpu if name.startswith("cuda/")]
    assert {*fake} == {name for name in everywhere if name.startswith("cuda/")} - ABOUT_THE_INSTRUMENT
    assert {*card} == {name for name, code in everywhere.items() if has_gpu_tests(code)}


def has_gpu_tests(code: str) -> bool:
    """Return true if a test in a file's code is marked gpu."""
    functions = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.FunctionDef)]
    return any(ast.unparse(mark) == "pytest.mark.gpu" for each in functions for mark in each.decorator_list)
