"""Which load comes when: a function of the seed and of nothing else. `chaos.load` sends it.

A chain is a key with several events, so that there is an order to keep. At its end, and in between, older events of it come again.
"""

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from chaos.poison import KINDS

What = Literal["order", "event", "early", "duplicate", "reordered", "poison"]
Form = Literal["plain", "binary", "structured"]

GAP_S = (0.02, 0.16)
WEIGHTS: dict[What, float] = {"order": 66, "event": 17, "early": 3, "duplicate": 9, "poison": 5}
CHAIN_EVENTS = (2, 5)
CHAINS_OPEN = 4
FORMS: tuple[Form, ...] = ("plain", "binary", "structured")
REMEMBERED = 200  # a duplicate repeats one of the last so many


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to send, `at_s` after the beginning.

    order: number `n`. event: number `n`, the `place`th of `chain`, as `form`, `assembled` or paid. early: an assembled event for the
    order `of`, beside its own. duplicate: the event of step `of` again, with `assembled` the one that came of it. reordered: the same,
    of a chain that has gone on since. poison: of the kind `detail`.
    """

    n: int
    at_s: float
    what: What
    of: int = 0
    chain: int = 0
    place: int = 0
    form: Form = "plain"
    assembled: bool = False
    detail: str = ""


@dataclass(slots=True)
class _Chain:
    number: int
    length: int
    assembled: bool
    steps: list[int]


def steps(seed: int) -> Iterator[Step]:
    """The load of a seed, in time, without end."""
    chance = random.Random(f"load {seed}")  # noqa: S311  has to be the same again
    chains: list[_Chain] = []
    sent: deque[Step] = deque(maxlen=REMEMBERED)
    orders: deque[int] = deque(maxlen=REMEMBERED)
    at_s, n, opened = 0.0, 0, 0
    while True:
        at_s += chance.uniform(*GAP_S)
        [what] = chance.choices(list(WEIGHTS), list(WEIGHTS.values()))
        n += 1
        match what:
            case "event":
                if len(chains) < CHAINS_OPEN:
                    opened += 1
                    chains.append(_Chain(opened, chance.randint(*CHAIN_EVENTS), chance.random() < 0.3, []))
                chain = chance.choice(chains)
                step = _next(chance, chain, n, at_s)
                if step.what == "event":
                    chain.steps.append(n)
                if len(chain.steps) == chain.length and step.what == "reordered":
                    chains.remove(chain)
            case "early" if orders:
                step = Step(n, at_s, "early", of=orders[-1], assembled=True)
            case "duplicate" if sent:
                again = chance.choice(sent)
                step = Step(n, at_s, "duplicate", of=again.n, assembled=again.assembled or chance.random() < 0.5)
            case "poison":
                step = Step(n, at_s, "poison", assembled=chance.random() < 0.5, detail=chance.choice(KINDS))
            case _:
                step = Step(n, at_s, "order")
                orders.append(n)
        if step.what in {"order", "event", "early"}:
            sent.append(step)
        yield step


def _next(chance: random.Random, chain: _Chain, n: int, at_s: float) -> Step:
    """The chain's next event, or an older one of it again: always once it is complete."""
    complete = len(chain.steps) == chain.length
    if complete or (len(chain.steps) > 1 and chance.random() < 0.2):
        return Step(n, at_s, "reordered", of=chance.choice(chain.steps[:-1]), chain=chain.number, assembled=chain.assembled)
    form = chance.choice(FORMS)
    return Step(n, at_s, "event", chain=chain.number, place=len(chain.steps), form=form, assembled=chain.assembled)
