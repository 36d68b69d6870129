"""The planted bugs still fit the code, and some of them are really planted; `make mutants` plants them all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants.catalogue import MUTANTS
from tests.mutants.mutant import ROOT, Edit, Mutant, bug
from tests.mutants.workbench import Tree, catch

PLANTED = ("dedup_is_skipped", "state_carries_no_generation", "failed_commit_prolongs_the_lease")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_bug_fits_the_code(mutant: Mutant) -> None:
    """Its old texts stand once in their files, and what it makes of them compiles."""
    for file, text in mutant.patched().items():
        assert text != (ROOT / file).read_text(encoding="utf-8")
        compile(text, file, "exec")


def test_every_bug_has_a_name_of_its_own() -> None:
    """The table names each once, and says in a sentence what it breaks."""
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 50
    assert [mutant.name for mutant in MUTANTS if not mutant.breaks.endswith(".")] == []


@pytest.mark.parametrize(
    ("text", "old", "new"),
    [("absent", "c", "d"), ("twice", "a", "d"), ("nothing changes", "b", "b")],
)
def test_an_edit_that_does_not_fit_is_refused(text: str, old: str, new: str) -> None:
    """A patch that silently changes nothing would look like a bug that nobody catches."""
    with pytest.raises(ValueError, match="file"):
        Edit("file", old, new).applied_to("a b a")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    return Tree(tmp_path_factory.mktemp("mutants"))


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_caught(name: str, tree: Tree) -> None:
    """The runner plants it in a copy, and a suite that passes here fails there."""
    [mutant] = [mutant for mutant in MUTANTS if mutant.name == name]
    result = catch(tree, mutant)
    assert result.by is not None, result.trouble


def test_a_slip_of_the_pen_is_no_catch(tree: Tree) -> None:
    """A patch that cannot even be imported proves nothing about the suites."""
    before = (ROOT / "stock/balance.py").read_text(encoding="utf-8")
    slip = bug("slip", "none", "Nothing.", ("stock/balance.py", "HAS_BASELINE = 1 ", "HAS_BASELINE = ONE "))
    result = catch(tree, slip)
    assert result.by is None
    assert "NameError" in str(result.trouble)
    assert Path(ROOT / "stock/balance.py").read_text(encoding="utf-8") == before
