"""An order desk: an agent looks an item up, checks stock that changes at random, reserves, takes payment and closes.

Every history can be listed, so values follow exactly by dynamic programming (`forest.py`). Mistakes cannot be undone: a
wrong item, a wrong payment or a backorder stays, and is often not visible before the end.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]

CUSTOMERS = (
    "Ada Alan Barbara Claude Donald Edsger Emmy Frances Grace Hedy Ida Jean John Kathleen Katherine Leslie Lynn "
    "Margaret Mary Maurice Niklaus Radia Robin Shafi Sophie Stephen Tim Tony Ursula Vint"
).split()
# Warehouse by warehouse; an item's twin is the one it is easily taken for.
NORTH_ITEMS = "lamp lantern desk table chair stool mug cup kettle teapot shelf rack".split()
SOUTH_ITEMS = "pen pencil brush broom spade shovel rope cord tent tarp boot shoe".split()
ITEMS = (*NORTH_ITEMS, *SOUTH_ITEMS)
PAYMENTS = ("card", "invoice")
WAREHOUSES = ("north", "south")
REQUESTS = (
    "Hello, {customer} here. I would like {quantity} x {item}, paid by {payment}.",
    "{customer} speaking. Please send me {quantity} x {item}; I pay by {payment}.",
    "Can I order {quantity} x {item}? Payment by {payment}. Thanks, {customer}",
    "I need {quantity} x {item} for the office. Use {payment} to pay. {customer}",
)

# The weight of the KL divergence that the shipped policy was trained with, and so the scale of its advantages.
BETA = 0.3
# The chance that stock is there: where the item is kept, and elsewhere.
IN_STOCK = {True: 0.8, False: 0.4}
BLIND = 0.5
# What an episode is worth at its end.
DONE, UNCONFIRMED, CANCELLED, APOLOGISED, TURNED_AWAY = 1.0, 0.7, 0.2, 0.3, 0.3


@dataclass(frozen=True)
class Task:
    """What a customer wants."""

    task_id: str
    customer: str
    item: str
    quantity: int
    payment: str
    request: str
    price: int

    @property
    def twin(self) -> str:
        """The item that it is easily taken for."""
        return ITEMS[ITEMS.index(self.item) ^ 1]

    @property
    def home(self) -> str:
        """The warehouse that keeps the item."""
        return WAREHOUSES[self.item not in NORTH_ITEMS]


@dataclass(frozen=True)
class State:
    """Where an episode is, beyond what the history says."""

    stage: str = "search"
    item: str = ""
    stock: tuple[str, bool] | None = None
    """A warehouse that was checked, and whether it had the item."""
    reserved: bool = False
    paid: bool = False
    """By the payment asked for."""


@dataclass(frozen=True)
class Outcome:
    """What the world answers: a tool's result and the next state, or an end and its reward."""

    probability: float
    reply: Message | None = None
    state: State | None = None
    reward: float = 0.0


@dataclass(frozen=True)
class Action:
    """One thing the agent may do. `skill` is how a demonstrator who knows the job rates it: 1 good, 0 poor."""

    message: Message
    skill: float
    outcomes: tuple[Outcome, ...] = field(default=())


def draw_tasks(n: int, seed: int, *, held_out: bool) -> list[Task]:
    """Tasks with even chances of every item, payment, customer and wording.

    Args:
      held_out: from the combinations of item, quantity and payment that training never sees (one in five), or else
        from the others.
    """
    rng = random.Random(seed)
    tasks: list[Task] = []
    while len(tasks) < n:
        task = Task(
            task_id=f"{'held-out' if held_out else 'train'}-{len(tasks):03d}",
            customer=rng.choice(CUSTOMERS),
            item=rng.choice(ITEMS),
            quantity=rng.randint(1, 9),
            payment=rng.choice(PAYMENTS),
            request=rng.choice(REQUESTS),
            price=rng.randint(2, 60),
        )
        combination = ITEMS.index(task.item) + task.quantity + PAYMENTS.index(task.payment)
        if (combination % 5 == 0) == held_out:
            tasks.append(task)
    return tasks


def request(task: Task) -> Message:
    """The message an episode begins with."""
    text = task.request.format(customer=task.customer, quantity=task.quantity, item=task.item, payment=task.payment)
    return {"role": "user", "content": text}


def actions(task: Task, state: State) -> list[Action]:
    """What the agent may do in a state. No action's text begins with another's, so each is told from its tokens."""
    return list(_STAGES[state.stage](task, state))


def _search(task: Task, _: State) -> Iterator[Action]:
    for item, skill in ((task.item, 1.0), (task.twin, 0.3)):
        reply = _reply(item=item, price=task.price if item == task.item else task.price + 1)
        outcome = Outcome(1.0, reply, State("stock", item))
        yield Action(_call("search", item=item), skill, (outcome,))
    yield Action(_say("Sorry, we take no orders today."), 0.0, (Outcome(1.0),))


def _stock(task: Task, state: State) -> Iterator[Action]:
    for warehouse in WAREHOUSES:
        chance = _chance(state.item, warehouse)
        outcomes = tuple(
            Outcome(p, _reply(warehouse=warehouse, units=units), State("reserve", state.item, (warehouse, units > 0)))
            for p, units in ((chance, task.quantity + 3), (1 - chance, 0))
        )
        yield Action(_call("stock", warehouse=warehouse), 1.0 if warehouse == task.home else 0.5, outcomes)
    yield Action(_call("reserve", warehouse="any"), 0.1, _reservation(state, BLIND))


def _reserve(task: Task, state: State) -> Iterator[Action]:
    assert state.stock is not None
    checked, there = state.stock
    for warehouse in WAREHOUSES:
        known = warehouse == checked
        chance = float(there) if known else _chance(state.item, warehouse)
        skill = {(True, True): 1.0, (True, False): 0.0, (False, True): 0.2, (False, False): 0.8}[known, there]
        yield Action(_call("reserve", warehouse=warehouse), skill, _reservation(state, chance))
    reward = TURNED_AWAY if state.item == task.item else 0.0
    yield Action(_say("Sorry, that is out of stock."), 0.1 if there else 0.6, (Outcome(1.0, reward=reward),))


def _reservation(state: State, chance: float) -> tuple[Outcome, ...]:
    both = ((chance, "reserved"), (1 - chance, "backorder"))
    return tuple(
        Outcome(p, _reply(status=status), State("pay", state.item, reserved=status == "reserved"))
        for p, status in both
        if p
    )


def _pay(task: Task, state: State) -> Iterator[Action]:
    for payment in PAYMENTS:
        right = payment == task.payment
        after = State("close", state.item, reserved=state.reserved, paid=right)
        outcome = Outcome(1.0, _reply(charged=task.quantity * task.price), after)
        yield Action(_call("pay", method=payment), 1.0 if right else 0.2, (outcome,))
    yield Action(_call("cancel"), 0.0 if state.reserved else 0.8, (Outcome(1.0, reward=CANCELLED),))


def _close(task: Task, state: State) -> Iterator[Action]:
    good = state.item == task.item and state.reserved and state.paid
    yield Action(
        _say(f"Done, your {state.item} is on its way."),
        1.0 if state.reserved else 0.2,
        (Outcome(1.0, reward=DONE if good else 0.0),),
    )
    yield Action(_call("close"), 0.3, (Outcome(1.0, reward=UNCONFIRMED if good else 0.0),))
    yield Action(
        _say("We are sorry and will refund you."),
        0.1 if state.reserved else 1.0,
        (Outcome(1.0, reward=APOLOGISED),),
    )


_STAGES = {"search": _search, "stock": _stock, "reserve": _reserve, "pay": _pay, "close": _close}


def _chance(item: str, warehouse: str) -> float:
    return IN_STOCK[(item in NORTH_ITEMS) == (warehouse == "north")]


def _call(name: str, **arguments: Any) -> Message:
    call = {"id": name, "function": {"name": name, "arguments": json.dumps(arguments)}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def _say(content: str) -> Message:
    return {"role": "assistant", "content": content}


def _reply(**values: Any) -> Message:
    return {"role": "tool", "content": json.dumps(values)}
