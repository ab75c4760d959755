"""The whole job: what its stages declare, and that they are checked together before the first begins."""

import pytest

from pa_dist import config, schema
from pa_dist.errors import ConfigError
from pa_dist.stages import ingest_and_score, stages

SCHEMAS = {"trajectories": schema.TRAJECTORIES, "logprobs": schema.LOGPROBS}


@pytest.fixture
def loaded(pair, chat_file, tmp_path):
    judge = {"kind": "wildreward", "model": str(tmp_path / "nowhere")}
    return config.parse(
        {
            "trajectories": {"format": "chat", "paths": [str(chat_file)]},
            "pair": pair,
            "score": {"device": "cpu"},
            "reward_models": {"entropy": judge},
            "output": str(tmp_path / "out"),
        }
    )


def test_a_run_in_order(loaded):
    assert [stage.name for stage in stages(loaded)] == ["ingest", "score", "reward entropy", "evaluate"]


def test_stages_read_columns_that_there_are_of_tables_that_others_write(loaded):
    written = set()
    for stage in stages(loaded):
        for table, columns in stage.reads.items():
            assert table in written
            assert set(columns) <= set(SCHEMAS[table].names)
        assert stage.writes
        written.update(stage.writes)


def test_all_faults_are_one_line_before_anything_starts(loaded, tmp_path):
    broken = {"pair": loaded.pair.model_copy(update={"reference": str(tmp_path / "none")})}
    with pytest.raises(ConfigError) as raised:
        ingest_and_score(loaded.model_copy(update=broken), print)
    said = str(raised.value)
    assert "\n" not in said
    assert said.startswith("pair.reference: ")
    assert "; reward_models.entropy.model: " in said
    assert said.endswith("; reward_models.entropy: a method has this name; take another")
    assert not (tmp_path / "out" / "trajectories").exists()
