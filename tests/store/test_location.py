from pyarrow import fs as pafs

from pa_dist.store.location import Location


def test_a_folder_that_another_command_makes_meanwhile_is_listed(tmp_path, monkeypatch):
    """Arrow lists it, finds none, and then that it is there: an error of its own."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").touch()
    calls = []

    class Racing:
        def get_file_info(self, selector):
            calls.append(selector)
            if len(calls) == 1:
                raise FileNotFoundError(2, "Cannot list directory")
            return pafs.LocalFileSystem().get_file_info(selector)

    place = Location(str(tmp_path / "out"))
    monkeypatch.setattr(Location, "filesystem", Racing())
    assert [file.base_name for file in place.listed()] == ["a"]
    assert len(calls) == 2


def test_there_may_be_none(tmp_path):
    assert Location(str(tmp_path)).listed("none") == []
