import pytest
from run_folders import SETTINGS, corpus, metrics, run_folder

from pa_dist.reduce.evaluate import evaluate


@pytest.fixture(scope="session")
def done(tmp_path_factory):
    folder = run_folder(tmp_path_factory.mktemp("run"), corpus())
    return folder, evaluate(SETTINGS, folder, map), metrics(folder)
