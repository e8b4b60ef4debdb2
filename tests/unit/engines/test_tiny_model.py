"""`pymotor make-tiny-model`: what it writes, and what it does not touch."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from pymotor.cli import main
from pymotor.engines.tiny_model import MARK, NotOursError, make_tiny_model


def files_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_the_same_seed_is_the_same_model(tmp_path: Path) -> None:
    for name in ("one", "other"):
        assert make_tiny_model(tmp_path / name, seed=3)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "other")


def test_another_seed_is_another_model_under_the_same_tokenizer(tmp_path: Path) -> None:
    make_tiny_model(tmp_path, seed=1)
    before = files_of(tmp_path)
    assert make_tiny_model(tmp_path, seed=2)
    after = files_of(tmp_path)
    assert {name for name in after if after[name] != before[name]} == {"model.safetensors", MARK}


def test_what_is_there_already_is_left_alone(tmp_path: Path) -> None:
    make_tiny_model(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert not make_tiny_model(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == times


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("somebody's")
    with pytest.raises(NotOursError, match="--force"):
        make_tiny_model(tmp_path)
    assert files_of(tmp_path) == {"config.json": b"somebody's"}
    assert make_tiny_model(tmp_path, force=True)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "qwen3_vl"


def test_a_run_that_was_killed_is_made_good(tmp_path: Path) -> None:
    make_tiny_model(tmp_path)
    whole = files_of(tmp_path)
    (tmp_path / MARK).write_text(json.dumps({**json.loads(whole[MARK]), "seed": None}))
    (tmp_path / "model.safetensors").unlink()
    assert make_tiny_model(tmp_path)
    assert files_of(tmp_path) == whole


def test_the_weights_are_a_safetensors_file(tmp_path: Path) -> None:
    make_tiny_model(tmp_path)
    data = (tmp_path / "model.safetensors").read_bytes()
    header_size = int.from_bytes(data[:8], "little")
    assert header_size % 8 == 0
    header = json.loads(data[8 : 8 + header_size])
    assert header.pop("__metadata__") == {"format": "pt"}
    end = 0
    for tensor in header.values():
        assert tensor["dtype"] == "F32"
        start, stop = tensor["data_offsets"]
        assert start == end
        assert stop - start == 4 * math.prod(tensor["shape"])
        end = stop
    assert end == len(data) - 8 - header_size


def test_the_tokenizer_has_every_byte_once_and_the_special_tokens_after_them(tmp_path: Path) -> None:
    make_tiny_model(tmp_path)
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    config = json.loads((tmp_path / "config.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    assert sorted(vocabulary.values()) == list(range(256))
    assert vocabulary["A"] == ord("A")
    special = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    assert sorted(special.values()) == list(range(256, config["text_config"]["vocab_size"]))
    assert special["<|image_pad|>"] == config["image_token_id"]
    assert special["<|im_end|>"] == config["text_config"]["eos_token_id"]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "model"
    assert main(["make-tiny-model", str(target), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"directory": str(target), "seed": 0, "made": True}
    assert main(["make-tiny-model", str(target)]) == 0
    assert "is there already" in capsys.readouterr().out
    assert main(["make-tiny-model", str(target), "--seed", "-1"]) == 2
    (tmp_path / "file").write_text("")
    assert main(["make-tiny-model", str(tmp_path / "file" / "model")]) == 1
    assert "cannot write" in capsys.readouterr().err
    assert main(["make-tiny-model", str(tmp_path)]) == 1
    assert "--force" in capsys.readouterr().err
