"""What the scorers did is not forgotten when the process that remembers it dies."""

from pa_dist.engine.protocol import Work
from pa_dist.runtime.tally import Tally

MODELS = ("policy", "reference")


def test_another_process_knows_what_was_told(tmp_path):
    memory = str(tmp_path / "tally.json")
    first = Tally(MODELS, memory)
    first.join("policy", "actor", {"node": "n", "matrix_flops_per_second": None})
    first.tell("policy", "one", 4, 0.5, Work(100, 80, 1000, 2.0))
    first.tell("policy", "one", 6, 0.75, Work(150, 120, 1500, 3.0))  # of six rows, four are those of before
    first.tell("policy", "two", 2, 0.0, Work(50, 50, 500, 1.0))
    first.fail("no such file")

    second = Tally(MODELS, memory)
    # What the first was doing as it died is asked for again, and what it is told later counts on.
    second.tell("policy", "two", 2, 0.0, Work(50, 50, 500, 1.0))
    second.tell("policy", "one", 9, 1.0, Work(200, 160, 2000, 4.0))
    second.fail("something else")
    found = second.snapshot()["policy"]
    assert (found.rows, found.idle, found.work) == (11, 1.0, Work(250, 210, 2500, 5.0))
    assert (
        found.actors == first.snapshot()["policy"].actors == {"actor": {"node": "n", "matrix_flops_per_second": None}}
    )
    assert second.snapshot()["reference"].rows == 0
    assert second.fault() == "no such file"


def test_a_disk_that_is_full_costs_nothing_else(tmp_path):
    tally = Tally(MODELS, str(tmp_path / "nowhere" / "tally.json"))
    tally.tell("policy", "one", 4, 0.5, Work(100, 80, 1000, 2.0))
    assert tally.snapshot()["policy"].rows == 4
