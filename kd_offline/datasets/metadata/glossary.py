"""What every array holds, in one sentence; docs/format.md says the same at length."""

from __future__ import annotations

MEANINGS: dict[str, str] = {
    "steps/obs": "the expert's observation before the step, padded with zeros",
    "steps/state": "state of the whole environment before the step",
    "steps/available_actions": "actions that are legal",
    "steps/alive": "whether the agent acts in this step",
    "steps/actions": "action that was executed",
    "steps/behaviour_logprob": "log probability of the executed action under what chose it",
    "steps/action_source": "who chose the action: 0 expert, 1 noise, 2 another policy",
    "steps/logits": "the expert's logits: raw, unmasked, temperature 1",
    "steps/q_values": "the expert's action values, raw",
    "steps/q_tot": "what the team's executed actions are worth together, mixed from its values",
    "steps/q_tot_max": "the same of its greedy actions",
    "steps/mixer_credit": "how much q_tot rises with the agent's own value",
    "steps/embedding": "hidden layer of the expert, named in its record",
    "steps/value": "the expert's critic before the step, in raw reward units",
    "steps/reward": "raw reward of each agent",
    "steps/terminated": "whether the task ended with this step",
    "steps/truncated": "whether the episode was cut off with this step, by a limit",
    "final/obs": "observation after the last step",
    "final/state": "state after the last step",
    "final/available_actions": "legal actions after the last step",
    "final/alive": "whether the agent still acts after the last step",
    "final/value": "the expert's critic after the last step; to bootstrap from only where it "
    "learned what follows a time limit (bootstraps_truncation)",
    "final/q_tot_max": "what the greedy actions after the last step would be worth together",
    "episodes/offset": "row of the first step in the steps arrays",
    "episodes/length": "number of steps",
    "episodes/seed": "seed that resets the environment to this episode",
    "episodes/return": "sum of the rewards of all agents and steps",
    "episodes/agent_return": "sum of the rewards of each agent",
    "episodes/won": "1 won, 0 not won, -1 where the task has no notion of winning",
    "episodes/noise_level": "level of behaviour noise",
    "episodes/expert_id": "which of the recorded experts played",
    "episodes/split": "code of the split that the episode belongs to",
}


def meaning(name: str) -> str:
    """Return what array ``name`` holds."""
    if name.startswith("masks/"):
        return "student mask: true where the student sees the feature"
    if name.startswith("steps/embedding_"):
        return f"hidden layer {name.removeprefix('steps/embedding_')!r} of the expert"
    return MEANINGS[name]
