"""The state of a stack of models in training, to be saved and taken up again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from histoloom.models.stack import Member, Runner, Stack, Trained


def member_facts(members: Sequence[Member]) -> list[list[Any]]:
    """Return what tells the members of a stack from those of another: a checkpoint of others is not used."""
    return [[m.fold, m.seed, m.stream, m.epochs, len(m.train), -1 if m.val is None else len(m.val)] for m in members]


def stack_state(stack: Stack, runners: Sequence[Runner], done: Mapping[int, Trained], step: int) -> dict[str, Any]:
    """Return all that the rest of a training depends on.

    Parameters
    ----------
    stack
        The members still training.
    runners
        All members, in order.
    done
        By position: those that have done all their epochs.
    step
        Steps done.
    """
    return {
        "step": step,
        "alive": [runners.index(runner) for runner in stack.runners],
        "parameters": [p.detach() for p in stack.parameters],
        "optimiser": [dict(stack.optimiser.state[p]) for p in stack.parameters],
        "runners": [
            {
                "generator": runner.generator.get_state(),
                "batches": list(runner.batches),
                "best": None if runner.best is None else _plain(runner.best),
                "curve": list(runner.curve),
            }
            for runner in runners
        ],
        "done": {position: _plain(trained) for position, trained in done.items()},
    }


def take_up(state: Mapping[str, Any], stack: Stack, runners: Sequence[Runner], done: dict[int, Trained]) -> int:
    """Put a training where `stack_state` found it; return the steps done."""
    for runner, found in zip(runners, state["runners"], strict=True):
        runner.generator.set_state(found["generator"])
        runner.batches = list(found["batches"])
        runner.best = None if found["best"] is None else _trained(found["best"], stack)
        runner.curve = list(found["curve"])
    stack.take([runners[i] for i in state["alive"]], state["parameters"], state["optimiser"])
    done.update({position: _trained(found, stack) for position, found in state["done"].items()})
    return int(state["step"])


def _plain(trained: Trained) -> dict[str, Any]:
    return {"layers": trained.layers, "epochs": trained.epochs, "curve": trained.curve}


def _trained(found: Mapping[str, Any], stack: Stack) -> Trained:
    from histoloom.models.stack import Trained

    layers = [tuple(tensor.to(stack.data.device) for tensor in pair) for pair in found["layers"]]
    return Trained([(weight, bias) for weight, bias in layers], int(found["epochs"]), list(found["curve"]))
