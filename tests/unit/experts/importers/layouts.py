"""Small checkpoints in the layouts of other libraries, with random weights."""

import torch
from torch import nn


def spread_mappo(folder, *, hidden=16, obs=18, actions=5, agents=3, state=54, seed=0):
    """Write a shared recurrent actor with agent ids and a central critic, as EPyMARL does."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)

    def layer(inputs, outputs):
        return torch.randn(outputs, inputs, generator=generator) * 0.3, torch.zeros(outputs)

    agent = dict(zip(("fc1.weight", "fc1.bias"), layer(obs + agents, hidden), strict=True))
    cell = nn.GRUCell(hidden, hidden).state_dict()
    agent |= {f"rnn.{n}": torch.randn(v.shape, generator=generator) * 0.3 for n, v in cell.items()}
    agent |= dict(zip(("fc2.weight", "fc2.bias"), layer(hidden, actions), strict=True))
    critic: dict[str, torch.Tensor] = {}
    sizes = (state + agents, hidden, hidden, 1)
    for k in (1, 2, 3):
        names = (f"fc{k}.weight", f"fc{k}.bias")
        critic |= dict(zip(names, layer(sizes[k - 1], sizes[k]), strict=True))
    torch.save(agent, folder / "agent.th")
    torch.save(critic, folder / "critic.th")
    return agent, critic


def spread_qmix(folder, *, hidden=16, obs=18, actions=5, agents=3, state=54, embedding=4):
    """Write a shared recurrent Q-network with agent ids and a mixer, as EPyMARL does."""
    spread_mappo(folder, hidden=hidden, obs=obs, actions=actions, agents=agents)
    (folder / "critic.th").unlink()
    generator = torch.Generator().manual_seed(1)
    sizes = {
        "hyper_w_1": (agents * embedding, state),
        "hyper_b_1": (embedding, state),
        "hyper_w_final": (embedding, state),
        "V.0": (embedding, state),
        "V.2": (1, embedding),
    }
    mixer = {}
    for name, shape in sizes.items():
        mixer[f"{name}.weight"] = torch.randn(*shape, generator=generator) * 0.2
        mixer[f"{name}.bias"] = torch.zeros(shape[0])
    torch.save(mixer, folder / "mixer.th")
