"""Settings from layers, with errors that name the setting and the way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from factorlake.config.loader import conf_folder, load_settings
from factorlake.errors import ConfigError


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_later_layers_win_and_mappings_are_merged(tmp_path: Path) -> None:
    base = written(tmp_path, "base.yaml", "train: {rank: 8, epochs: 3}\nroot: one\n")
    over = written(tmp_path, "prod.yaml", "train: {rank: 16}\n")
    settings = load_settings([base, over], ["train.cg_steps=5"], {"FACTORLAKE__TRAIN__EPOCHS": "4"})
    assert (settings.train.rank, settings.train.epochs, settings.train.cg_steps, settings.root) == (16, 4, 5, "one")


def test_set_wins_over_the_environment() -> None:
    assert load_settings([], ["train.rank=3"], {"FACTORLAKE__TRAIN__RANK": "9"}).train.rank == 3


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.rnk=3", "did you mean 'train.rank'"),
        ("trian.rank=3", "did you mean 'train'"),
        ("train.early_stopping.patince=2", "did you mean 'train.early_stopping.patience'"),
        ("validate.rules=[{name: a, type: range, colum: v, min: 1}]", "did you mean 'validate.rules.0.column'"),
        ("train.rank=0", "'train.rank'"),
        ("recommender=interactions", "shared table"),
        ("publish.slot=../live", "publish.slot"),
        ("train={nonnegative: true, solver: cg}", "leave it at auto"),
    ],
)
def test_a_wrong_setting_is_named_with_the_nearest_known_one(override: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        load_settings([], [override], {})
    assert caught.value.exit_code == 2


def test_variables_are_expanded_with_their_default(tmp_path: Path) -> None:
    path = written(tmp_path, "a.yaml", "root: ${LAKE:-here}/x\ninput: ${LOG}\n")
    settings = load_settings([path], [], {"LOG": "there"})
    assert (settings.root, settings.input) == ("here/x", "there")


def test_a_variable_without_value_or_default_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="LOG"):
        load_settings([written(tmp_path, "a.yaml", "input: ${LOG}\n")], [], {})


@pytest.mark.parametrize(
    "text",
    [
        "root: !!python/object/apply:os.system ['true']\n",
        "root: one\nroot: two\n",
        "- a\n- b\n",
        "root: [unclosed\n",
    ],
)
def test_hostile_yaml_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"a\.yaml"):
        load_settings([written(tmp_path, "a.yaml", text)], [], {})


def test_what_is_wrong_with_a_file_is_told_by_its_line_and_not_by_what_stands_there(tmp_path: Path) -> None:
    file = written(tmp_path, "a.yaml", "root: one\ndemo:\n  key: @hunter2\n")
    with pytest.raises(ConfigError, match="line 3") as caught:
        load_settings([file], [], {})
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"demo\.key") as caught:
        load_settings([], ["demo.key=@hunter2"], {})
    assert "hunter2" not in str(caught.value)


def test_a_missing_conf_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_settings([tmp_path / "nowhere.yaml"], [], {})


def test_the_conf_folder_is_the_one_that_holds_expectations(tmp_path: Path) -> None:
    (tmp_path / "conf" / "expectations").mkdir(parents=True)
    (tmp_path / "conf" / "base").mkdir()
    assert conf_folder([tmp_path / "conf" / "base" / "a.yaml"]) == str(tmp_path / "conf")
