"""S4: no name from a file, a header or a configuration leads out of its folder. Row 36 and 35 hold more:
shards of a model's index; tests/data/test_manifest.py: names in tables."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lora_scripts.config.load import load_config
from lora_scripts.core.paths import RunFolder
from lora_scripts.core.problems import ProblemsError
from lora_scripts.data.manifest import read_pictures
from tests.contract.conftest import draw_pictures, tiny_base  # noqa: F401

OUTSIDE = (
    "../secret.png", "../../secret.png", "pics/../../secret.png", "/etc/passwd", "//host/share/secret.png",
    "\\\\host\\share\\secret.png", "C:\\secret.png", "..\\secret.png", "a\\..\\..\\secret.png", "file:///etc/passwd",
    "secret.png\0.png", "\0", "~/secret.png", "$HOME/secret.png", "%2e%2e/secret.png", "....//secret.png",
    "CON", "nul.png",
    "secret.png:stream", ".", "..", "./", " ", "http://host/x.png",
)  # fmt: skip


@pytest.fixture
def data(tmp_path) -> Path:
    draw_pictures(tmp_path / "secret", 1)
    (tmp_path / "secret" / "img00.png").rename(tmp_path / "secret.png")
    draw_pictures(tmp_path / "pics", 2)
    return tmp_path / "pics"


@pytest.mark.parametrize("table", ["metadata.csv", "metadata.jsonl"])
def test_s04_a_table_names_pictures_of_its_folders_only(table, data):
    rows = [{"file_name": name, "text": "x"} for name in OUTSIDE]
    lines = [json.dumps(row) for row in rows]
    if table.endswith(".csv"):
        lines = ["file_name,text", *(f'"{name}",x' for name in OUTSIDE)]
    (data / table).write_text("\n".join(lines) + "\n", encoding="utf-8")
    manifest = read_pictures(data)
    assert [example.fields["image"] for example in manifest.examples] == []
    assert manifest.problems


def test_s04_a_table_elsewhere_adds_its_own_folder_only(data, tmp_path):
    (tmp_path / "tables").mkdir()
    table = tmp_path / "tables" / "metadata.csv"
    table.write_text("file_name,text\n../secret.png,x\nimg00.png,y\n", encoding="utf-8")
    assert [example.fields["name"] for example in read_pictures(data, table).examples] == ["img00.png"]


NAMES = ("../evil", "/tmp/evil", "a/b", "a\\b", "..", ".hidden", "a:b", "a\0b", "a\nb", "con?", "*", "")


@pytest.mark.parametrize("name", NAMES)
def test_s04_an_output_name_is_a_name(name, tmp_path):
    values = {"train_data_dir": ".", "base_model": "builtin:demo", "output_dir": "./out", "output_name": name}
    (tmp_path / "run.yaml").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ProblemsError) as error:
        load_config(tmp_path / "run.yaml")
    assert any("output_name" in str(p.params) or p.code.startswith("LS1") for p in error.value.problems)


@pytest.mark.parametrize("place", ["./out/..", ".", "..", "./out/.", "/"])
def test_s04_a_run_s_files_lie_in_its_folder_whatever_it_is_called(place, tmp_path):
    values = {"train_data_dir": ".", "base_model": "builtin:demo", "output_dir": place}
    (tmp_path / "run.yaml").write_text(json.dumps(values), encoding="utf-8")
    config = load_config(tmp_path / "run.yaml")
    folder = RunFolder(tmp_path / "out", config.name)
    for path in (
        folder.export(),
        folder.export(7),
        folder.best_export,
        folder.adapter(7),
        folder.best_adapter,
    ):
        assert Path(os.path.abspath(path)).parent == tmp_path / "out"
        assert path.name not in ("", ".", "..")
        assert not path.name.startswith(".")


def test_s04_a_header_of_somebody_s_file_makes_no_path(tmp_path, tiny_base):  # noqa: F811
    """A LoRA's own title and its folder are text, wherever it is merged, exported or shown."""
    from lora_scripts.toolbox.convert_layout import export_diffusers
    from lora_scripts.toolbox.inspect import inspect_file
    from tests.toolbox.test_merge_pictures import wide

    evil = "../../evil/\0x"
    folder = tmp_path / "in" / "side"
    folder.mkdir(parents=True)
    lora, _ = wide(
        folder / "x.safetensors", ss_output_name=evil, ss_sd_model_name=evil, **{"modelspec.title": evil}
    )
    assert inspect_file(lora).name == evil
    export_diffusers(str(tiny_base), str(lora), folder / "out.safetensors")
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["out.safetensors", "x.safetensors"]


def test_s04_parts_of_a_base_lie_in_its_folder(tmp_path, tiny_base):  # noqa: F811
    """An index cannot point at another model's parts."""
    from lora_scripts.families._source import resolve

    base = shutil.copytree(tiny_base, tmp_path / "base")
    other = tmp_path / "other"
    other.mkdir()
    save_file({"secret": torch.ones(1)}, other / "model.safetensors")
    index = json.loads((base / "model_index.json").read_text("utf-8"))
    for name in ("../other", str(other), "..\\other", "unet/../../other"):
        index[name] = ["diffusers", "UNet2DConditionModel"]
    (base / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    assert not any("secret" in name for name in resolve(str(base)).shapes)
