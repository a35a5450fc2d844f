"""User settings: their sources, precedence, paths and mistakes."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from nexa.errors import UserError
from nexa.settings import Settings, get_settings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "settings.md"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with the current folder two levels below, and no settings."""
    for name in ("RUNS_DIR", "STORE_URI", "SCHEDULER", "DEFAULTS", "ENVIRONMENTS_DIR"):
        monkeypatch.delenv(f"NEXA_{name}", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "project"
    (folder / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(folder / "a" / "b")
    return folder


def test_defaults_count_from_the_current_folder(project: Path) -> None:
    settings = get_settings()
    assert settings.runs_dir == project / "a" / "b" / "runs"
    assert settings.store_uri == (project / "a" / "b" / "artifacts").as_uri()
    assert settings.scheduler == "local"
    assert settings.sources == {}


def test_environment_beats_project_beats_user(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = tmp_path / "config" / "nexa" / "config.toml"
    user.parent.mkdir(parents=True)
    user.write_text('runs_dir = "u"\nstore_uri = "u"\nscheduler = "u"\n')
    (project / "nexa.toml").write_text('runs_dir = "p"\nstore_uri = "p"\n')
    monkeypatch.setenv("NEXA_RUNS_DIR", "e")
    settings = get_settings()
    assert settings.runs_dir == project / "a" / "b" / "e"
    assert settings.store_uri == (project / "p").as_uri()
    assert settings.scheduler == "u"
    assert settings.sources == {
        "runs_dir": "$NEXA_RUNS_DIR",
        "store_uri": str(project / "nexa.toml"),
        "scheduler": str(user),
    }


def test_plugin_defaults_come_from_a_table_or_json(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "nexa.toml").write_text('[defaults.slurm]\npartition = "gpu"\n')
    assert get_settings().defaults == {"slurm": {"partition": "gpu"}}
    monkeypatch.setenv("NEXA_DEFAULTS", '{"slurm": {"partition": "cpu"}}')
    assert get_settings().defaults["slurm"]["partition"] == "cpu"


def test_uris_stay_and_an_empty_variable_counts_as_unset(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXA_STORE_URI", "s3://bucket/x")
    monkeypatch.setenv("NEXA_RUNS_DIR", "")
    settings = get_settings()
    assert settings.store_uri == "s3://bucket/x"
    assert settings.runs_dir == project / "a" / "b" / "runs"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('schedulr = "x"\n', "unknown setting schedulr (did you mean scheduler?)"),
        (
            "zzz = 1\n",
            "unknown setting zzz (settings: runs_dir, store_uri, environments_dir, scheduler, defaults, tui)",
        ),
        ("runs_dir = 3\n", "runs_dir: "),
        ("defaults = 3\n", "defaults: "),
        ("runs_dir = \n", "can't be read"),
        ("x = [" * 3000, "can't be read"),
    ],
)
def test_a_wrong_file_is_named(project: Path, text: str, message: str) -> None:
    path = project / "nexa.toml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        get_settings()
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_a_wrong_variable_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXA_DEFAULTS", "{")
    with pytest.raises(UserError, match=r"\$NEXA_DEFAULTS"):
        get_settings()


def test_the_reference_page_names_every_setting_and_its_example_is_valid(project: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name in {setting.name for setting in fields(Settings)} - {"sources"}:
        assert f"| `{name}` | `NEXA_{name.upper()}`" in page
    (project / "nexa.toml").write_text(page.partition("```toml\n")[2].partition("```")[0])
    assert get_settings().defaults == {"wandb": {"project": "my-team"}}
