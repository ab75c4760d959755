"""How many tokens a model reads, by its config. Values by hand."""

from types import SimpleNamespace as Text

import pytest

from pa_dist.models.positions import has_table, limited, positions

ROPES = [
    # The positions of before, and how much they are stretched: Qwen2.5's way to reach 131,072.
    ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}, 32768, 131072),
    # What is stated is stretched already: Olmo 3, Llama 3.2.
    ({"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 8192}, 65536, 65536),
    ({"rope_type": "llama3", "factor": 32.0, "original_max_position_embeddings": 8192}, 131072, 131072),
    ({"rope_type": "longrope", "original_max_position_embeddings": 4096}, 131072, 131072),
    # No word of what they were.
    ({"rope_type": "linear", "factor": 4.0}, 4096, 16384),
    ({"rope_type": "dynamic", "factor": 2.0}, 4096, 8192),
    ({"rope_type": "default", "rope_theta": 1e4}, 4096, 4096),
    # One for each type of layer, as Gemma has them.
    ({"sliding_attention": {"rope_type": "default"}, "full_attention": {"rope_type": "linear", "factor": 8}}, 500, 500),
]


@pytest.mark.parametrize(("rope", "stated", "expected"), ROPES)
def test_stretched_positions_are_counted_once(rope, stated, expected):
    assert positions(Text(max_position_embeddings=stated, rope_parameters=rope)) == expected


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"n_positions": 1024}, 1024),
        ({"max_sequence_length": 77}, 77),
        ({"max_seq_len": 2048}, 2048),
        ({"seq_length": 99}, 99),
        ({"n_ctx": 5}, 5),
        ({"max_position_embeddings": None, "n_ctx": 5}, 5),
        ({"max_position_embeddings": -1}, None),
        ({"max_position_embeddings": True}, None),
        ({}, None),
    ],
)
def test_the_limit_has_many_names_or_none(stated, expected):
    assert positions(Text(**stated)) == expected


def test_a_table_ends_and_rotations_do_not():
    text = Text(max_position_embeddings=64)
    assert has_table(text, ["transformer.wpe.weight"])
    assert has_table(text, ["model.decoder.embed_positions.weight"])
    assert not has_table(text, ["model.embed_tokens.weight"])
    assert has_table(text, None)
    assert not has_table(Text(max_position_embeddings=64, rope_parameters={"rope_type": "default"}), None)
    assert not has_table(Text(), ["transformer.wpe.weight"])


def test_the_shortest_model_limits_both(pair):
    from pa_dist import config

    tree = {"trajectories": {"format": "chat", "paths": ["x"]}, "pair": pair, "output": "o"}
    loaded = config.parse(tree)
    assert limited(loaded.scoring, {"policy": None, "reference": 512}).score.max_length == 512
    assert limited(loaded.scoring, {"policy": None, "reference": None}) == loaded.scoring
