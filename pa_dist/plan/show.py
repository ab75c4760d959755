"""A plan in the terminal, and as JSON."""

import json
from dataclasses import asdict

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pa_dist.plan.devices import GIB
from pa_dist.plan.estimate import Estimate
from pa_dist.plan.records import DevicePlan, Plan
from pa_dist.terminal import console_for, visible

MOST_REASONS = 8


def as_json(plan: Plan) -> str:
    """One object; totals as `{value, standard_error}`."""
    return json.dumps(asdict(plan), ensure_ascii=False, allow_nan=False)


def show_plan(plan: Plan, console: Console | None = None) -> None:
    """Print a plan's tables, and below them what they rest on."""
    console = console_for(console)
    tables = [_corpus(plan), _models(plan), _memory(plan), _devices(plan)]
    tables += [_rewards(plan)] if plan.reward_models else []
    tables += [_rejects(plan)] if plan.rejects else []
    for table in tables:
        console.print(table)
    for line in plan.assumptions:
        console.print(Text(visible(line)), soft_wrap=True)


def _table(title: str, *heads: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=Text(visible(title)), title_justify="left", show_edge=False)
    table.add_column(heads[0], no_wrap=True)
    for head in heads[1:]:
        table.add_column(head, justify="right")
    return table


def _row(table: Table, *cells: str) -> None:
    # Text: names and reasons come from files, and square brackets in them are no markup.
    table.add_row(*(Text(visible(cell)) for cell in cells))


def _corpus(plan: Plan) -> Table:
    table = _table(f"plan: {plan.name}" if plan.name else "plan", "corpus", "total")
    about = "" if plan.read_files == plan.files else "about "
    _row(table, "records read", f"{about}{plan.records:,.0f} in {plan.files:,} files")
    _row(table, "trajectories", f"{about}{plan.trajectories:,.0f}")
    for name in ("scored", "steps", "truncated", "truncated_steps", "action_tokens"):
        _row(table, name.replace("_", " "), _count(getattr(plan, name)))
    _row(table, "logprobs on disk", _amount(plan.logprobs_bytes, 1e6, " MB"))
    return table


def _models(plan: Plan) -> Table:
    heads = ("tokens", "distinct", "shared", "TFLOPs", "passes", "parameters", "active")
    table = _table("models", "model", *heads)
    for name, model in plan.models.items():
        tokens = model.tokens.value
        saved = 1 - model.distinct_tokens.value / tokens if tokens else 0.0
        _row(
            table,
            name,
            _count(model.tokens),
            _count(model.distinct_tokens),
            f"{saved:.0%}",
            _amount(model.flops, 1e12),
            str(model.passes),
            _millions(model.parameters),
            _millions(model.active),
        )
    return table


def _memory(plan: Plan) -> Table:
    parts = [part.replace("_", " ") for part in next(iter(plan.models.values())).memory]
    table = _table("memory of a replica, GiB", "model", *parts, "together")
    for name, model in plan.models.items():
        amounts = [*model.memory.values(), sum(model.memory.values())]
        _row(table, name, *(f"{amount / GIB:,.2f}" for amount in amounts))
    return table


def _devices(plan: Plan) -> Table:
    heads = ["device", "memory", "fits", "a replica does", "hours", "device-hours"]
    table = _table("devices", *heads, *(["hours of reward models"] if plan.reward_models else []))
    for device in plan.devices:
        memory = "" if device.memory is None else f"{device.memory / GIB:,.0f} GiB"
        cells = [device.device, memory, _fit(device), _does(device), _hours(device.hours), _hours(device.device_hours)]
        if plan.reward_models:
            cells.append("-" if device.reward_hours is None else _hours(device.reward_hours))
        _row(table, *cells)
    return table


def _fit(device: DevicePlan) -> str:
    lacking = [name for name, fits in device.fits.items() if fits is False]
    if lacking:
        return f"not {' and '.join(lacking)}"
    return "-" if None in device.fits.values() else "yes"


def _does(device: DevicePlan) -> str:
    rates = dict.fromkeys(
        f"{rate / 1e12:,.3g} TFLOP/s" if device.unit == "flops" else f"{rate:,.0f} tokens/s"
        for rate in device.per_second.values()
    )
    return ", ".join(rates)


def _rewards(plan: Plan) -> Table:
    heads = ("tokens", "critique, at most", "truncated", "rejects", "TFLOPs", "weights, GiB")
    table = _table("reward models", "model", *heads)
    for name, model in plan.reward_models.items():
        counts = [_count(x) for x in (model.tokens, model.generated, model.truncated, model.rejects)]
        _row(table, name, *counts, _amount(model.flops, 1e12), f"{model.weights_bytes / GIB:,.2f}")
    return table


def _rejects(plan: Plan) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=Text("rejects"), title_justify="left", show_edge=False)
    for head in ("stage", "count", "reason"):
        table.add_column(head)
    for reject in plan.rejects[:MOST_REASONS]:
        _row(table, reject.stage, f"{reject.count:,.0f}", reject.reason)
    if rest := plan.rejects[MOST_REASONS:]:
        _row(table, "", f"{sum(reject.count for reject in rest):,.0f}", f"{len(rest)} other reasons")
    return table


def _count(total: Estimate) -> str:
    return _amount(total, 1.0, digits=0)


def _amount(total: Estimate, unit: float, suffix: str = "", digits: int = 1) -> str:
    error = total.standard_error
    more = " ± ?" if error is None else f" ± {error / unit:,.{digits}f}" if error else ""
    return f"{total.value / unit:,.{digits}f}{more}{suffix}"


def _millions(weights: int) -> str:
    return f"{weights / 1e9:,.2f} B" if weights >= 1e9 else f"{weights / 1e6:,.1f} M"


def _hours(hours: float) -> str:
    """Hours, and of less than one what a reader can tell apart."""
    return (
        f"{hours:,.1f} h" if hours >= 1 else f"{hours * 60:,.1f} min" if hours >= 1 / 60 else f"{hours * 3600:,.1f} s"
    )
