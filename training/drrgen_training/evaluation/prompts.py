"""Named sets of sentences that say that a finding is there, or not.

A set is a TOML file: ``presence`` and ``absence`` are lists of sentences with ``{label}``;
``names`` gives labels other names than their own, each of which goes into each sentence. Labels are
written small, unless ``keep_case``.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from drrgen.config import check_known, read_toml
from drrgen.errors import ConfigError
from drrgen_training.shipped import find_shipped, is_list_of_words

_SLOT = "{label}"
_KEYS = ("presence", "absence", "keep_case", "names")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSet:
    """Sentences of presence and absence.

    Attributes:
        presence: Each with ``{label}``.
        absence: Likewise.
        keep_case: Leave the label's capitals as they are.
        names: Names of labels, where it is not the label's own one.

    Raises:
        ConfigError: A side has no sentence, or a sentence has no place for the label.
    """

    presence: tuple[str, ...]
    absence: tuple[str, ...]
    keep_case: bool = False
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for side in (self.presence, self.absence):
            bad = [sentence for sentence in side if _SLOT not in sentence]
            if bad or not side:
                found = repr(bad[0]) if bad else "no sentence"
                raise ConfigError(f"prompts: got {found}, wanted sentences with {_SLOT}")

    def write(self, label: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Write the sentences of presence and of absence of a label.

        Example:
            >>> PromptSet(presence=("{label} is seen.",), absence=("No {label}.",)).write("Mass")
            (('Mass is seen.',), ('No mass.',))
        """
        names = self.names.get(label, (label,))
        own = [name if self.keep_case else name.lower() for name in names]
        return self._fill(self.presence, own), self._fill(self.absence, own)

    def write_all(self, labels: Iterable[str]) -> list[str]:
        """Write all sentences of some labels, each once."""
        sides = (side for label in labels for side in self.write(label))
        return list(dict.fromkeys(sentence for side in sides for sentence in side))

    @staticmethod
    def _fill(sentences: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
        """Fill names in; a sentence begins with a capital."""
        filled = (s.replace(_SLOT, name) for s in sentences for name in names)
        return tuple(s[0].upper() + s[1:] for s in filled)


def read_prompts(name: str) -> PromptSet:
    """Read a set of sentences.

    Args:
        name: One that is shipped (``x2ct``, ``ctclip``, ``ensemble``), or a file's, FILE.toml.

    Raises:
        ConfigError: There is none, or it is no set of sentences.
    """
    return read_toml(find_shipped("prompts", name), _make_prompts, "prompts")


def _make_prompts(table: dict[str, Any]) -> PromptSet:
    """Build a set from a file's table."""
    check_known(table, _KEYS, "key")
    for key in ("presence", "absence"):
        value = table.get(key)
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise ConfigError(f"{key}: got {value!r}, wanted a list of sentences")
    keep_case, names = table.get("keep_case", False), table.get("names", {})
    if not isinstance(keep_case, bool):
        raise ConfigError(f"keep_case: got {keep_case!r}, wanted true or false")
    if not isinstance(names, dict):
        raise ConfigError(f"names: got {names!r}, wanted a table of labels")
    for label, each in names.items():
        if not is_list_of_words(each):
            raise ConfigError(f"names.{label}: got {each!r}, wanted a list of names")
    return PromptSet(
        presence=tuple(table["presence"]),
        absence=tuple(table["absence"]),
        keep_case=keep_case,
        names={label: tuple(each) for label, each in names.items()},
    )
