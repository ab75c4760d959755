"""Files whose container is not read say what was expected, once a file; and an ingest of nothing is an error."""

import gzip
import json

import pytest

from pa_dist.errors import PaDistError
from pa_dist.ingest.stage import refuse_none_kept

HI = {"role": "user", "content": "hi"}
ONE = {"messages": [HI]}
SPANS = "a JSON document over several lines; expected one conversation a line (JSON Lines)"
LIST = "a list of conversations; expected one conversation a line (JSON Lines)"


@pytest.mark.parametrize("format", ["chat", "auto"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (json.dumps(ONE, indent=1), SPANS),
        ("\n".join(json.dumps(ONE, indent=1) for _ in range(9)), SPANS),
        (json.dumps([ONE, ONE]), LIST),
        (json.dumps([ONE, ONE], indent=1), LIST),
        ("[\n" + ",\n".join([json.dumps(ONE)] * 3) + "\n]", LIST),
        (json.dumps([HI]), f"{LIST.replace('conversations', 'messages')}, an object with `messages`"),
        (json.dumps(ONE).encode("utf-16"), "text in UTF-16; expected UTF-8"),
        (json.dumps(ONE).encode("utf-16-le"), "text in UTF-16; expected UTF-8"),
        (json.dumps(ONE).encode("utf-32"), "text in UTF-32; expected UTF-8"),
        (gzip.compress(json.dumps(ONE).encode()), "compressed; its name has to end in .gz"),
        (b"version https://git-lfs.example/v1\noid x\n", "a git-lfs pointer, not the file; `git lfs pull` brings that"),
    ],
)  # fmt: skip
def test_what_was_expected_is_said_once_a_file(put, run, format, content, reason):
    assert run(format, put("a.jsonl", content)).rejects == [("a.jsonl", "file", reason)]


@pytest.mark.parametrize("first", ["{", "[", '{"messages": [', json.dumps([HI]), '{"a": 1', "[" + json.dumps(ONE)])
def test_a_bad_first_line_costs_no_other(put, run, first):
    result = run("chat", put("a.jsonl", "\n".join([first, json.dumps(ONE), json.dumps(ONE)])))
    assert result.counts.kept == 2
    assert [place for _, place, _ in result.rejects] == ["line 1"]


def test_an_ingest_that_kept_nothing_says_why(jsonl, run):
    result = run("chat", jsonl("a.jsonl", *[{"messages": []}] * 3, {"messages": [{"role": 1}]}))
    result.folder.start("ingest", {})
    result.folder.finish("ingest", kept=result.counts.kept)
    expected = "no trajectory could be kept; of 4 rejects, 3: no messages; 1: messages.0..role is not a string but 1"
    with pytest.raises(PaDistError, match=expected) as error:
        refuse_none_kept(result.folder)
    assert error.value.exit_code == 1
    result.folder.finish("ingest", kept=1)
    refuse_none_kept(result.folder)
