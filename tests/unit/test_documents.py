"""What the documents name is there: files, names, links, records, contracts, targets."""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Callable

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "python" / "hybrid"
ARCHITECTURE, README = ROOT / "ARCHITECTURE.md", ROOT / "README.md"
DECISIONS = ROOT / "docs" / "decisions"
RECORDS = sorted(DECISIONS.glob("[0-9]*.md"))
#: Documents that describe the code as it is.
DESCRIPTIONS = [ARCHITECTURE, *RECORDS]
DOCUMENTS = [
    *DESCRIPTIONS,
    README,
    DECISIONS / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "tests" / "README.md",
]

#: Paths from the root of the project; all others are of the package.
_ROOTED = ("rust/", "tests/", "docs/", "benches/", "examples/")
#: Pools, which only an interpreter that is patched for their hub can import.
_POOLS = {f"hybrid.{hub}{rest}" for hub in ("gevent", "eventlet") for rest in ("", ".TaskPool")}


def _wrong(
    documents: Iterable[Path], find: Callable[[Path], Iterable[str]]
) -> dict[str, list[str]]:
    """Return what ``find`` finds wrong with each of ``documents``, if anything."""
    found = {str(path.relative_to(ROOT)): list(find(path)) for path in documents}
    return {name: wrong for name, wrong in found.items() if wrong}


def _missing_files(document: Path) -> Iterator[str]:
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    # A row of a table names the room first, and then what is in it.
    for part in re.split(r"\n(?=\n|\|)", document.read_text()):
        folder = PACKAGE
        for named in re.findall(r"`([^`\n]+)`", part):
            is_room = re.fullmatch(r"\w+(?:/\w+)+/?", named) and named.split("/")[0] in rooms
            if not (is_room or re.fullmatch(r"[\w./]+(?:/|\.py)", named)):
                continue
            if named.startswith("hybrid/"):
                places = [PACKAGE.parent / named]
            elif named.startswith(_ROOTED):
                places = [ROOT / named]
            else:
                places = [PACKAGE / named, folder / named]
            if not any(place.exists() for place in places):
                yield named
            elif named.endswith("/"):
                folder = PACKAGE / named


def test_every_file_that_is_named_exists() -> None:
    assert not _wrong(DESCRIPTIONS, _missing_files)


def _can_be_imported(dotted: str) -> bool:
    """Tell whether ``dotted`` is a module, or a name in one."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError as exc:
            if not (exc.name or "").startswith("hybrid"):
                raise
            continue
        for name in parts[end:]:
            found = getattr(found, name, None)
        return found is not None
    return False


def _missing_names(document: Path) -> Iterator[str]:
    names = set(re.findall(r"(?<![\w./-])hybrid(?:\.\w+)+", document.read_text()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for name in sorted(names - _POOLS):
            if not _can_be_imported(name):
                yield name


def test_every_name_of_ours_can_be_imported() -> None:
    assert not _wrong(DOCUMENTS, _missing_names)


def _dead_links(document: Path) -> list[str]:
    links = re.findall(r"\]\((?!https?://)([^)#]+)\)", document.read_text())
    return [link for link in links if not (document.parent / link).exists()]


def test_every_link_leads_somewhere() -> None:
    assert not _wrong(DOCUMENTS, _dead_links)


def test_every_decision_is_listed_once_under_its_title() -> None:
    text = (DECISIONS / "README.md").read_text()
    listed = re.findall(r"^\* \[(\d{4})\]\((\S+)\) (.+)$", text, re.MULTILINE)
    titles = {path.name: path.read_text().partition("\n")[0] for path in RECORDS}
    assert sorted((name, f"# {title}") for _, name, title in listed) == sorted(titles.items())
    assert all(name.startswith(f"{number}-") for number, name, _ in listed)
    assert "docs/decisions/README.md" in ARCHITECTURE.read_text()


def test_decisions_are_numbered_without_a_gap() -> None:
    numbers = [int(path.name[:4]) for path in RECORDS]
    assert numbers == list(range(1, len(RECORDS) + 1))


def _gaps(record: Path) -> Iterator[str]:
    leads = re.findall(r"^\*\*(.+?)\.\*\*", record.read_text(), re.MULTILINE)
    if leads[:1] != ["Decided"]:
        yield "does not begin with what was decided"
    if not {"Why", "Rejected"}.intersection(leads):
        yield "has no reason"
    if len(leads) != len(set(leads)):
        yield "says something twice"


def test_a_record_says_what_was_decided_and_why() -> None:
    assert not _wrong(RECORDS, _gaps)


def test_every_contract_on_imports_is_described() -> None:
    contracts = re.findall(
        r'\[\[tool\.importlinter\.contracts\]\]\s+name = "(.+)"',
        (ROOT / "pyproject.toml").read_text(),
    )
    assert contracts
    described = " ".join(ARCHITECTURE.read_text().split())
    assert not [name for name in contracts if f"**{name}" not in described]


def _missing_targets(document: Path) -> set[str]:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(r"(?:`|^\$ )make ([a-z-]+)", document.read_text(), re.MULTILINE)
    return set(named) - set(targets)


def test_every_target_of_make_that_is_named_exists() -> None:
    assert not _wrong(DOCUMENTS, _missing_targets)
