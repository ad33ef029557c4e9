from pathlib import Path

import pytest
from drrgen_training.evaluation.prompts import PromptSet, read_prompts
from drrgen_training.shipped import list_shipped

from drrgen.errors import ConfigError


def test_the_shipped_sets_say_what_the_papers_say() -> None:
    assert set(list_shipped("prompts")) == {"x2ct", "ctclip", "ensemble"}
    assert read_prompts("x2ct").write("Pleural effusion") == (
        ("There is pleural effusion.",), ("There is no pleural effusion.",)
    )  # fmt: skip
    assert read_prompts("ctclip").write("Lung nodule") == (
        ("Lung nodule is present.",), ("Lung nodule is not present.",)
    )  # fmt: skip


def test_an_ensemble_writes_every_name_into_every_sentence_once() -> None:
    prompts = read_prompts("ensemble")
    present, absent = prompts.write("Lung nodule")
    assert len(present) == len(absent) == 8 and not set(present) & set(absent)
    assert "Pulmonary nodule is seen." in present and "No pulmonary nodule is seen." in absent
    both = prompts.write_all(["Lung nodule", "Lung nodule", "Mass"])
    assert len(both) == len(set(both)) == 16 + 8


def test_sentences_without_a_place_for_the_label_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('presence = ["{label}!"]\nabsence = ["nothing"]\n')
    with pytest.raises(ConfigError, match=r"got 'nothing', wanted sentences with {label}"):
        read_prompts(str(path))
    path.write_text('presence = ["{label}!"]\nabsense = []\n')
    with pytest.raises(ConfigError, match="did you mean absence"):
        read_prompts(str(path))
    path.write_text('presence = "{label}"\nabsence = ["no {label}"]\n')
    with pytest.raises(ConfigError, match=r"presence: got '{label}', wanted a list"):
        read_prompts(str(path))
    with pytest.raises(ConfigError, match="wanted one of ctclip, ensemble, x2ct, or FILE"):
        read_prompts("nothing")
    with pytest.raises(ConfigError, match="got no sentence"):
        PromptSet(presence=("{label}",), absence=())


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("names = 3", "names: got 3, wanted a table"),
        ('names.Mass = "lump"', "names.Mass: got 'lump', wanted a list of names"),
        ("names.Mass = []", "names.Mass: got"),
        ("names.Mass = [1]", "names.Mass: got"),
        ('names.Mass = [""]', "names.Mass: got"),
        ('keep_case = "no"', "keep_case: got 'no', wanted true or false"),
    ],
)
def test_names_that_are_no_lists_of_texts_are_refused(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(f'presence = ["{{label}}"]\nabsence = ["no {{label}}"]\n{line}\n')
    with pytest.raises(ConfigError, match=said):
        read_prompts(str(path))
