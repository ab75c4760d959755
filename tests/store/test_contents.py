"""What a stage was made from is the same where it holds the same, whatever its time."""

import os

import pytest

from pa_dist.models.fingerprint import model_files
from pa_dist.store import contents
from pa_dist.store.contents import mark, read_beside
from pa_dist.store.folder import CONTENTS, RunFolder


@pytest.fixture
def model(tmp_path):
    place = tmp_path / "model"
    place.mkdir()
    (place / "a.safetensors").write_bytes(b"a" * 3_000_000)
    (place / "config.json").write_text("{}")
    return place


@pytest.fixture
def folder(tmp_path):
    return RunFolder(str(tmp_path / "out"))


def listing(model):
    return lambda: model_files(str(model))


def of(folder, model):
    return mark(folder, model_files(str(model)))


def test_files_of_another_time_are_the_same(folder, model):
    first = of(folder, model)
    with read_beside(folder, {first: listing(model)}):
        pass
    os.utime(model / "a.safetensors", (0, 0))
    assert of(folder, model) == first


def test_files_of_another_content_or_name_are_others(folder, model):
    first = of(folder, model)
    with read_beside(folder, {first: listing(model)}):
        pass
    (model / "a.safetensors").write_bytes(b"a" * 2_999_999 + b"b")
    second = of(folder, model)
    assert second != first
    (model / "a.safetensors").write_bytes(b"a" * 3_000_000)
    assert of(folder, model) == first
    (model / "a.safetensors").rename(model / "b.safetensors")
    assert of(folder, model) not in (first, second)


def test_of_what_was_not_read_to_its_end_the_time_tells(folder, model):
    first = of(folder, model)
    with pytest.raises(KeyError), read_beside(folder, {first: listing(model)}):
        raise KeyError
    assert folder.read(CONTENTS) is None
    assert of(folder, model) == first
    os.utime(model / "config.json", (0, 0))
    assert of(folder, model) != first


def test_files_of_another_time_are_read_once(folder, model, monkeypatch):
    first = of(folder, model)
    with read_beside(folder, {first: listing(model)}):
        pass
    os.utime(model / "a.safetensors", (0, 0))
    assert of(folder, model) == first
    monkeypatch.setattr(contents, "_digest", lambda *_: pytest.fail("read again"))
    assert of(folder, model) == first


def test_what_changes_meanwhile_is_not_remembered(folder, model):
    first = of(folder, model)
    with read_beside(folder, {first: listing(model)}):
        (model / "config.json").write_text("[]")
        os.utime(model / "config.json", (0, 0))
    assert folder.read(CONTENTS) is None
    assert of(folder, model) != first
