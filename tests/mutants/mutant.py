"""What a planted bug is: edits of the source, what they break, and who is expected to notice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Edit:
    """Replace a text that stands exactly once in a file."""

    file: str
    old: str
    new: str

    def applied_to(self, source: str) -> str:
        """The file's text with this edit in it.

        Raises:
            ValueError: the old text does not stand there exactly once, or the edit changes nothing.
        """
        found = source.count(self.old)
        if found != 1:
            raise ValueError(
                f"{self.file} has {self.old!r} {found} times; a mutant needs a text that stands there once"
            )
        if self.old == self.new:
            raise ValueError(f"{self.file}: {self.old!r} is replaced by itself")
        return source.replace(self.old, self.new)


@dataclass(frozen=True)
class Mutant:
    """One planted bug.

    `rule` begins with `section 7` for the rules of the runtime protocol, which the simulator alone has to catch too;
    `unseen_because` says why it cannot. `caught_by` (pytest targets) and `seed` (of the simulator) are where to
    look first. They make a run quick and decide nothing: if nothing is caught there, every other suite is tried.
    """

    name: str
    rule: str
    breaks: str
    edits: tuple[Edit, ...]
    caught_by: str = ""
    seed: int | None = None
    unseen_because: str | None = None

    @property
    def of_the_protocol(self) -> bool:
        """Whether this switches off a rule of section 7."""
        return self.rule.startswith("section 7")

    def patched(self, root: Path = ROOT) -> dict[str, str]:
        """The new text of every file that it changes.

        Raises:
            ValueError: an edit does not fit the source any more.
        """
        texts: dict[str, str] = {}
        for edit in self.edits:
            source = texts.get(edit.file) or (root / edit.file).read_text(encoding="utf-8")
            texts[edit.file] = edit.applied_to(source)
        return texts


def bug(
    name: str,
    rule: str,
    breaks: str,
    *edits: tuple[str, str, str],
    caught_by: str = "",
    seed: int | None = None,
    unseen_because: str | None = None,
) -> Mutant:
    """A mutant from its edits: file, old text, new text."""
    return Mutant(name, rule, breaks, tuple(Edit(*edit) for edit in edits), caught_by, seed, unseen_because)
