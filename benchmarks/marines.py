"""A script that plays five marines against six on SMAX, to teach the expert of ``smax/5m_vs_6m``.

    PYTHONPATH=. kd-offline train --recipe cli/recipes/bundled/smax-5m-vs-6m-default.toml -o expert/

It foretells the shots of the coming step from the state, steps back where that avoids one that it
would die of, or one while its own weapon is not ready, and shares out its fire so that enemies die
soonest. Before contact it waits in two groups, so that the enemies divide. The numbers below were
found by an evolution strategy on the win rate.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kd_offline.errors import MismatchError
from kd_offline.schemas.environment import EnvironmentSpec
from kd_offline.types import BoolArray, FloatArray, IntArray, PolicyOutput, SeedArray, View

TASK = "smax/5m_vs_6m"
ALLIES, ENEMIES = 5, 6
# SMAX: a decision is held for eight ticks of a sixteenth of a second.
TICK, TICKS = 1 / 16, 8
SPEED, RANGE, HEALTH, DAMAGE, EDGE = 3.15, 5.0, 45.0, 9.0, 32.0
MOVES = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)], float)  # actions 0 to 3
STOP, ATTACK = 4, 5  # the second is the first of the attacks
NOWHERE = 99.0

# Where the marines wait, from low to high, beside x and the enemies' mean y.
WAIT_X = 8.0
SLOTS = np.array([(0.0, -6.4), (-0.4, -6.3), (-1.7, 5.5), (-1.1, 5.7), (-0.2, 6.3)])
CLOSE_ENOUGH = 0.8
LEAD = 1.4  # how far in front of the ones in range the others may go
IN_REACH, TO_THE_BACK = 1.0, 0.04  # in health, what a step back costs and brings
# The chosen action has e^SURE times the probability of each other one.
SURE = 7.0


class Field(NamedTuple):
    """What the state says: of allies [B, N] and of enemies [B, M]."""

    ours: FloatArray  # [B, N, 2]
    theirs: FloatArray  # [B, M, 2]
    health: FloatArray
    their_health: FloatArray
    ready: FloatArray  # tick of the next shot
    their_ready: FloatArray

    @classmethod
    def read(cls, state: FloatArray) -> Field:
        """Take a state of SMAX apart, float [B, S]."""
        units = ALLIES + ENEMIES
        unit = state[:, : units * 10].reshape(-1, units, 10).astype(float)
        health, place = unit[..., 0] * HEALTH, unit[..., 1:3]
        ready = np.maximum(0, np.ceil(unit[..., 3] / TICK - 1e-4))
        sides = [(x[:, :ALLIES], x[:, ALLIES:]) for x in (place, health, ready)]
        return cls(*sides[0], *sides[1], *sides[2])


class Marines:
    """The script as a team policy; it remembers whom each enemy fired at, int64 [B, M] or -1."""

    def start(self, seeds: SeedArray) -> IntArray:
        """Return that nobody fired yet."""
        return np.full((len(seeds), ENEMIES), -1)

    def keep(self, memory: IntArray, episodes: IntArray) -> IntArray:
        """Return the memory of some episodes of a batch."""
        return memory[episodes]

    def act(self, view: View, memory: IntArray) -> tuple[PolicyOutput, IntArray]:
        """Return logits that are ``SURE`` at the chosen action and zero elsewhere."""
        field = Field.read(view.state)
        actions, targets = decide(field, memory)
        legal = np.take_along_axis(view.available_actions, actions[..., None], 2)[..., 0]
        actions = np.where(legal, actions, STOP)
        chosen = actions[..., None] == np.arange(view.available_actions.shape[-1])
        return PolicyOutput((SURE * chosen).astype(np.float32)), targets


def script(spec: EnvironmentSpec) -> Marines:
    """Return the script; for ``python:benchmarks.marines:script``.

    Raises
    ------
    MismatchError
        The task is another one.
    """
    if spec.id != TASK:
        msg = f"the script plays {TASK}, got {spec.id}: choose an expert of that task"
        raise MismatchError(msg)
    return Marines()


def decide(field: Field, memory: IntArray) -> tuple[IntArray, IntArray]:
    """Return actions [B, N] and whom the enemies fire at, [B, M]."""
    alive, enemies = field.health > 0, field.their_health > 0
    between = _distance(field.theirs, field.ours)  # [B, M, N]
    near = (between < RANGE) & alive[:, None] & enemies[..., None]
    targets = _targets(between, near, memory)
    can: BoolArray = np.asarray(near.any(1))
    back, dodge = _step_back(field, targets, alive, enemies, can)
    fire = _fire(field, near.swapaxes(1, 2) & ~dodge[..., None])
    contact = (targets.max(1) >= 0)[:, None]
    move = np.where(contact, _approach(field, between, can), _wait(field))
    actions = np.where(dodge, back, np.where(can, fire, move))
    return np.where(alive, actions, STOP), targets


def _targets(between: FloatArray, near: BoolArray, memory: IntArray) -> IntArray:
    """Enemies stay with whom they fire at while it is in range, else take the nearest."""
    before = np.maximum(memory, 0)[..., None]
    stays = (memory >= 0) & np.take_along_axis(near, before, 2)[..., 0]
    nearest = np.where(near, between, NOWHERE).argmin(2)
    return np.where(near.any(2), np.where(stays, memory, nearest), -1)


def _step_back(
    field: Field, targets: IntArray, alive: BoolArray, enemies: BoolArray, can: BoolArray
) -> tuple[IntArray, BoolArray]:
    """Return the best step for each ally and whether to take it, both [B, N]."""
    fires = (field.their_ready < TICKS) & enemies
    shots = (targets[..., None] == np.arange(ALLIES)) & fires[..., None]  # [B, M, N]
    moved = MOVES[:, None, None] * SPEED * TICK * field.their_ready[:, None, :, None, None]
    then = field.ours[:, None, None] + moved  # when each enemy fires, [B, 4, M, N, 2]
    gap = np.linalg.norm(then - field.theirs[:, None, :, None], axis=-1)
    staying = shots.sum(1) * DAMAGE
    moving = (shots[:, None] & (gap < RANGE)).sum(2) * DAMAGE  # [B, 4, N]
    ends = field.ours[:, None] + MOVES[:, None] * SPEED * TICK * TICKS  # [B, 4, N, 2]
    wall = ((ends < 1) | (ends > EDGE - 1)).any(-1)
    reach = np.linalg.norm(ends[:, :, None] - field.theirs[:, None, :, None], axis=-1) < RANGE
    reached = (reach & enemies[:, None, :, None]).sum(2)
    middle = _mean(field.theirs, enemies)
    backwards = -np.einsum("kc,bnc->bkn", MOVES, middle[:, None] - field.ours)
    cost = moving + 1000.0 * wall + IN_REACH * reached - TO_THE_BACK * backwards
    best = cost.argmin(1)
    taken = np.take_along_axis(moving, best[:, None], 1)[:, 0]
    saves_life = (staying >= field.health) & (taken < field.health)
    idle = ~(can & (field.ready < TICKS))
    return best, alive & (saves_life | ((staying > taken) & idle))


def _fire(field: Field, reach: BoolArray) -> IntArray:
    """Share out the fire, [B, N]: first enemies that die of it, by few shots, then the weakest.

    ``reach``, bool [B, N, M]: at whom an ally that does not step back can fire.
    """
    can: BoolArray = np.asarray(reach.any(2))
    left = can & (field.ready < TICKS)  # who has a shot to give away
    health = field.their_health.copy()
    actions = np.full(left.shape, STOP)
    for _ in range(ALLIES - 1):
        could = (reach & left[..., None]).sum(1)  # [B, M]
        need = np.maximum(1, np.ceil(health / DAMAGE - 1e-4))
        valid = (could > 0) & (health > 1e-3)
        kills = valid & (could >= need)
        score = np.where(kills, 100 - need, np.where(valid, DAMAGE * could - health, -1e9))
        enemy = score.argmax(1)[:, None]
        chosen = [np.take_along_axis(x, enemy, 1) for x in (valid, kills, need)]
        who = np.take_along_axis(reach, enemy[..., None], 2)[..., 0] & left & chosen[0]
        # Those with the fewest others to fire at are the first.
        order = np.where(who, 10 * reach.sum(2) + np.arange(ALLIES), 1000)
        rank = order.argsort(1).argsort(1)
        use = who & ((rank < chosen[2]) | ~chosen[1])
        actions = np.where(use, ATTACK + enemy, actions)
        health -= DAMAGE * use.sum(1)[:, None] * (enemy == np.arange(ENEMIES))
        left &= ~use
    rest = np.where(health < 1e-3, health + 2 * HEALTH, health)
    weakest = np.where(reach, rest[:, None], 10 * HEALTH).argmin(2)
    return np.where(can & (actions == STOP), ATTACK + weakest, actions)


def _approach(field: Field, between: FloatArray, can: BoolArray) -> IntArray:
    """Those out of range come nearer, as far as the ones in range are, [B, N]."""
    enemies = field.their_health > 0
    far = np.where(enemies[..., None], between, NOWHERE)
    nearest = far.argmin(1)
    towards = np.take_along_axis(field.theirs, nearest[..., None], 1) - field.ours
    step = (towards @ MOVES.T).argmax(2)
    ends = field.ours + MOVES[step] * SPEED * TICK * TICKS
    mine = np.where(enemies[..., None], _distance(field.theirs, ends), NOWHERE).min(1)
    front = np.where(can[:, None], far, NOWHERE).min((1, 2))[:, None]
    return np.where((mine >= front - LEAD) | (can.sum(1) == 0)[:, None], step, STOP)


def _wait(field: Field) -> IntArray:
    """Go to the places where the enemies are waited for, [B, N]."""
    alive, enemies = field.health > 0, field.their_health > 0
    rank = np.where(alive, field.ours[..., 1], NOWHERE).argsort(1).argsort(1)
    slot = SLOTS[rank]
    height = np.where(enemies.any(1), _mean(field.theirs, enemies)[:, 1], EDGE / 2)
    goal = np.stack([WAIT_X + slot[..., 0], height[:, None] + slot[..., 1]], -1)
    way = goal - field.ours
    return np.where(np.abs(way).max(-1) > CLOSE_ENOUGH, (way @ MOVES.T).argmax(2), STOP)


def _distance(a: FloatArray, b: FloatArray) -> FloatArray:
    """Return the distances of points, [B, I, 2] and [B, J, 2], as [B, I, J]."""
    gap: FloatArray = np.linalg.norm(a[:, :, None] - b[:, None], axis=-1)
    return gap


def _mean(places: FloatArray, counted: BoolArray) -> FloatArray:
    """Return the mean of the places that count, [B, 2]; zero where none does."""
    total: FloatArray = (places * counted[..., None]).sum(1)
    mean: FloatArray = total / np.maximum(1, counted.sum(1))[:, None]
    return mean
