"""Decode the action tokens that a run scored, and hold them against the messages that its trajectories hold.

python tests/spans.py OUT [OUT ...]        prints both counts of each run; exit status 1 where one is not all

Of each action that was not truncated, the policy's tokens decode to the very text that was rendered, by the hash that
`logprobs` keeps of it; and they decode to a text that holds the message's content and, of each tool call, the name and
every text among the arguments.
"""

import argparse
import hashlib
import json
import sys
from collections import Counter

from pa_dist.engine.tokens import load_tokenizer
from pa_dist.store.folder import RunFolder

RENDERED, SAID = "decode to the text rendered", "decode to what the message says"


def leaves(value):
    """The texts among arguments, as any rendering must show them."""
    if isinstance(value, dict | list):
        return [leaf for item in (value.values() if isinstance(value, dict) else value) for leaf in leaves(item)]
    return [value] if isinstance(value, str) else []


def squeezed(text):
    return "".join(text.split())


def holds(text, message):
    """Whether a decoded action says all that the message does, white space aside."""
    calls = message["tool_calls"] or []
    arguments = [leaf for call in calls for leaf in leaves(json.loads(call["arguments"]))]
    # Within arguments a rendering may quote a text as JSON does, or as Python.
    quoted = [{leaf, json.dumps(leaf, ensure_ascii=False)[1:-1], repr(leaf)[1:-1]} for leaf in arguments]
    forms = [{message["content"] or ""}, *({call["name"]} for call in calls), *quoted]
    return all(any(squeezed(form) in squeezed(text) for form in each) for each in forms)


def check(folder):
    """Counts over the actions of a run."""
    pair, found = folder.manifest["config"]["pair"], Counter()
    tokenizer = load_tokenizer(pair["policy"], revision=pair["policy_revision"])
    trajectories = folder.dataset("trajectories").to_table(columns=["trajectory_id", "messages"]).to_pylist()
    messages = {row["trajectory_id"]: row["messages"] for row in trajectories}
    columns = ["trajectory_id", "step", "text_hash", "truncated", "token_ids"]
    for batch in folder.dataset("logprobs").to_batches(columns=columns):
        for trajectory_id, *actions in zip(*(batch[name].to_pylist() for name in columns), strict=True):
            found["trajectories"] += 1
            for step, text_hash, truncated, ids in zip(*actions, strict=True):
                found["actions"] += not truncated
                found["truncated"] += truncated
                text = tokenizer.decode(ids)
                same = hashlib.blake2b(text.encode(), digest_size=8).hexdigest() == text_hash
                found[RENDERED] += same and not truncated
                found[SAID] += not truncated and holds(text, messages[trajectory_id][step])
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="+", help="run folder")
    sound = True
    for out in parser.parse_args().out:
        found = check(RunFolder(out))
        n = found["actions"]
        print(f"{out}: {n} actions of {found['trajectories']} trajectories, and {found['truncated']} truncated")
        for name in (RENDERED, SAID):
            print(f"  {found[name] / n if n else 0:.2%} {name}")
        sound = sound and found[RENDERED] == found[SAID] == n > 0
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
