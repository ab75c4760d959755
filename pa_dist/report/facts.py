"""What a run was made of and what it took, from its manifest and log: labels with text, in the order of the page."""

from collections.abc import Sequence
from typing import Any

from pa_dist import truncation
from pa_dist.errors import RunFolderError, shown
from pa_dist.pairs import DEMO, PAIRS
from pa_dist.reduce.evaluated import first_reference
from pa_dist.reduce.metrics.groups import Group
from pa_dist.report.figures.points import RejectCounts
from pa_dist.report.wording import listed, plain, titles
from pa_dist.runtime.targets import judged_by, reference_target, referred_to, reward_target
from pa_dist.score.noise_said import in_words
from pa_dist.store.folder import REPORT, RunFolder
from pa_dist.store.location import LOG

Fact = tuple[str, str]


def facts(folder: RunFolder) -> list[Fact]:
    """Models, rendering, tokens, throughput, versions and dates of a run that is evaluated."""
    manifest = folder.manifest
    stages = manifest["stages"]
    found = [
        ("Name of the config", manifest.get("config", {}).get("name") or ""),
        *_dates(folder),
        *_ingest(stages.get("ingest")),
        *_labels(stages.get("labels")),
        *_models(stages["score"], first_reference(folder)),
        *_settings(stages["score"].get("settings", {})),
        *(fact for name, record in stages["score"].get("models", {}).items() for fact in _work(name, record)),
        *(fact for name in referred_to(stages) for fact in _further(name, stages[reference_target(name).stage])),
        ("Precision", in_words(stages["score"]).partition(": ")[2]),
        ("Truncation", truncation.in_full(stages["score"]).partition(": ")[2]),
        *(_reward_model(name, stages[reward_target(name).stage]) for name in judged_by(stages)),
        _evaluation(stages["evaluate"]),
        ("Versions", _listed(manifest.get("versions", {}))),
    ]
    return [(label, plain(text)) for label, text in found if text]


def names(folders: Sequence[RunFolder]) -> list[str]:
    """What runs are called: as their configs have it, else by the folder's last part; with the folder where alike."""
    found = [
        plain(str(folder.manifest.get("config", {}).get("name") or folder.path().rpartition("/")[2]))
        for folder in folders
    ]
    both = zip(found, folders, strict=True)
    return [f"{name} ({plain(str(folder))})" if found.count(name) > 1 else name for name, folder in both]


def in_short(folder: RunFolder) -> str:
    """A run on one line, whatever there is of it: what is done, of how many trajectories, by which pair, its page."""
    try:
        stages = folder.manifest["stages"]
    except RunFolderError as error:
        return str(error)
    done = ", ".join(name for name, record in stages.items() if record.get("done"))
    said = [f"{folder}: {done or 'nothing'} done"]
    if "rows" in stages.get("score", {}):
        said.append(f"{stages['score']['rows']:,} trajectories, scored by {pair(folder)}")
    elif "kept" in stages.get("ingest", {}):
        said.append(f"{stages['ingest']['kept']:,} trajectories")
    page = (REPORT, "index.html")
    if folder.filesystem.get_file_info(folder.path(*page)).is_file:
        said.append(f"report {shown(folder.below(*page))}")
    return plain("; ".join(said))


def title(folder: RunFolder, groups: Sequence[Group]) -> str:
    """What the page is of: the data and the pair that were really scored, whatever the config calls itself."""
    return f"{data(groups) or 'Trajectories'}, scored by {pair(folder)}"


def data(groups: Sequence[Group]) -> str:
    """Groups in words."""
    return listed([name for group, name in titles(groups).items() if any(group)])


def pair(folder: RunFolder) -> str:
    """Policy and reference, by the pair's name where it is a known one."""
    settings = folder.manifest["stages"]["score"].get("settings", {})
    given = settings.get("pair", {})
    policy, reference = given.get("policy"), given.get("reference")
    by = f"{plain(policy or 'a policy')} over {plain(reference or 'a reference')}"
    for name, known in {**PAIRS, "demo": DEMO}.items():
        if (known.policy, known.reference) == (policy, reference):
            by = f"the pair {name}"
    further = listed([plain(name) for name in referred_to(folder.manifest["stages"])])
    return f"{by}, and over {further}" if further else by


def _dates(folder: RunFolder) -> list[Fact]:
    """The log's first and last entry begin with the time."""
    times = [line.split(" ", 1)[0] for line in (folder.read(LOG) or b"").decode(errors="replace").splitlines()]
    return [("Logged", f"{times[0]} to {times[-1]}")] if times else []


def _ingest(record: dict[str, Any] | None) -> list[Fact]:
    if record is None or not record.get("done"):
        return []
    beyond = f", {record['left_out_by_limit']:,} beyond the limit" if record["left_out_by_limit"] else ""
    read = f"{record['kept']:,} kept, {record['rejected']:,} rejected{beyond}, of {record['read']:,}"
    return [("Trajectories", f"{read} in {record['sources']:,} files")]


def _labels(record: dict[str, Any] | None) -> list[Fact]:
    """Those that came later."""
    if record is None or not record["done"]:
        return []
    names = ("doubled", "contradicting", "unmatched", "ambiguous", "unusable")
    lost = "".join(f", {record[name]:,} {name}" for name in names if record.get(name))
    joined = f"of {record.get('labelled', 0):,} trajectories, by {record.get('rows', 0):,} rows"
    return [("Labels that came later", joined + lost)]


def _models(record: dict[str, Any], name: str | None = None) -> list[Fact]:
    """Policy and reference, which may have a name."""
    settings = record.get("settings", {})
    pair, commits = settings.get("pair", {}), record.get("commits", {})
    found = []
    for model in ("policy", "reference"):
        revision = commits.get(model) or pair.get(f"{model}_revision")
        weights = settings.get("weights", {}).get(model)
        adapter = f" with the adapter {pair[f'{model}_adapter']}" if pair.get(f"{model}_adapter") else ""
        of = f", revision {revision}" if revision else f", files {weights}" if weights else ""
        called = f" {name}" if name and model == "reference" else ""
        found.append((f"{model.capitalize()}{called}", f"{pair[model]}{of}{adapter}" if model in pair else ""))
    return found


def _further(name: str, record: dict[str, Any]) -> list[Fact]:
    """Of a further reference."""
    if not record["done"]:
        return []
    _, (_, model) = _models(record)
    merged = record["settings"].get("merge")
    made = f"{model}, merged with the policy: {_listed(merged)}" if merged else model
    work = _work(f"reference {name}", record["models"]["reference"])
    return [
        (f"Reference {name}", f"{made}; {record['rows']:,} scored, {record['rejects']:,} rejected"),
        *work,
        (f"Precision with reference {name}", in_words(record).partition(": ")[2]),
    ]


def _settings(settings: dict[str, Any]) -> list[Fact]:
    return [("Rendering", _listed(settings.get("render", {}))), ("Scoring", _listed(settings.get("score", {})))]


def _work(model: str, record: dict[str, Any]) -> list[Fact]:
    """Nothing where the columns were copied from another run's."""
    if not record.get("rows"):
        return []
    devices = ", ".join(sorted({actor["device"] for actor in record["actors"]}))
    text = (
        f"{record['tokens']:,} tokens, {record['distinct_tokens']:,} of them distinct ({record['share_saved']:.0%} "
        f"shared); {record['tokens_per_second']:,.0f} tokens a second and actor, {len(record['actors'])} on {devices}"
    )
    rate = record["share_of_matrix_rate"]
    text += "" if rate is None else f"; {rate:.0%} of the matrix rate"
    idle = record.get("idle_share")
    text += "" if idle is None else f"; idle between blocks {idle:.0%} of the time"
    return [(f"Work of the {model}", text)]


def _reward_model(name: str, record: dict[str, Any]) -> Fact:
    model = record.get("settings", {}).get("model", {}).get("model", "")
    cut = f", {record['shown_in_part']:,} of them shown in part" if record.get("shown_in_part") else ""
    return f"Reward model {plain(name)}", f"{model}: {record['rows']:,} judged{cut}, {record['rejects']:,} rejected"


def _evaluation(record: dict[str, Any]) -> Fact:
    return "Evaluation", _listed(record.get("settings", {}).get("evaluate", {}))


def _listed(values: dict[str, Any]) -> str:
    """What is set, as `name value, name value`."""
    return ", ".join(
        f"{name.replace('_', ' ')} {_value(value)}" for name, value in values.items() if value not in (None, {})
    )


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def seconds(folder: RunFolder) -> list[Fact]:
    """How long each finished stage took."""
    stages = folder.manifest["stages"]
    return [(name, f"{record['seconds']:,} s") for name, record in stages.items() if "seconds" in record]


def reject_lines(found: RejectCounts) -> tuple[list[tuple[str, str, int]], str]:
    """Stage, reason and count, and a line for the reasons that are not listed."""
    rows = [(stage, plain(reason), count) for stage, reason, count in found.reasons]
    rest = f"{found.other_rows:,} more for {found.other_reasons:,} other reasons." if found.other_rows else ""
    return rows, rest
