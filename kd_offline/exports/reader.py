"""Runs exported students with PyTorch and safetensors alone; copy this file and the weights.

agent = load("students.safetensors")["agent_0"]
memory = torch.zeros(1, agent.facts["memory_width"])  # at the start of every episode
action, logits, memory = agent.step(obs, legal, memory)  # [1, inputs], bool [1, actions]

A step whose logits are NaN was refused: export.json says when, and what it returns.
"""

import hashlib
import json
import pathlib

import safetensors.torch
import torch

LARGEST = 1e18


class Agent:
    def __init__(self, facts, tensors):
        self.facts, self.t = facts, tensors

    def affine(self, name, x):
        x = self.affine(f"{name}.thin", x) if f"{name}.thin.weight" in self.t else x
        weight, scale = self.t[f"{name}.weight"].float(), self.t.get(f"{name}.scale")
        return x @ (weight if scale is None else weight * scale[:, None]).T + self.t[f"{name}.bias"]

    def dense(self, name, x):
        x = self.affine(name, x).relu()
        return torch.layer_norm(x, x.shape[1:])

    def layers(self, name, x):
        k = 0
        while f"{name}.{k}.weight" in self.t:
            x, k = self.dense(f"{name}.{k}", x), k + 1
        return x

    def gru(self, x, h):
        r, z, n = self.affine("gru.input", x).chunk(3, 1)
        hr, hz, hn = self.affine("gru.memory", h).chunk(3, 1)
        n = torch.tanh(n + torch.sigmoid(r + hr) * hn)
        return n + torch.sigmoid(z + hz) * (h - n)

    def step(self, obs, legal, memory):
        kept = {name: memory[:, a:b] for name, (a, b) in self.facts["memory"].items()}
        now, (seen, bits) = {}, obs.tensor_split([len(self.t["centre"])], 1)
        x = (seen - self.t["centre"]) * self.t["scale"] * (bits if self.facts["drawn"] else 1)
        usable = (torch.cat([x, memory], 1).abs() <= LARGEST).all(1, keepdim=True)
        parts = [x, bits] if self.facts["mask_input"] else [x]
        if "motion" in self.t:
            parts.append((x - kept["previous"]) * self.t["motion"] * kept["started"])
            now = {"previous": x, "started": torch.ones_like(kept["started"])}
        x = torch.cat([*parts, kept.get("last_action", x[:, :0])], 1)
        x = self.layers("trunk", x)
        if "gru" in kept:
            x = now["gru"] = self.gru(x, kept["gru"])
        elif "fusion" in kept:  # the first inputs are mapped as the whole input says
            m = self.affine("fusion.hyper", x).relu().unsqueeze(1)
            maps = self.affine("fusion.maps", x[:, : self.t["fusion.maps.weight"].shape[1]])
            maps = maps.unflatten(1, (m.shape[2] + 1, -1))
            x = self.layers("fusion.trunk", (m @ maps[:, :-1] + maps[:, -1:]).squeeze(1))
            x = now["fusion"] = self.gru(x, kept["fusion"])
        elif "ptde" in kept:  # a prediction that the state of the GRU gives stands behind it
            h = self.gru(x, kept["ptde"][:, : self.t["ptde.predict.weight"].shape[1]])
            z = self.affine("ptde.z", self.dense("ptde.predict", h))
            x = now["ptde"] = torch.cat([h, z], 1)
        now = {name: torch.where(usable, value, kept[name]) for name, value in now.items()}
        logits = torch.where(usable, self.affine("head", x), torch.nan)
        action = torch.where(usable, logits, 0.0).masked_fill(~legal, -torch.inf).argmax(1)
        now["last_action"] = torch.nn.functional.one_hot(action, logits.shape[1]).float()
        return action, logits, torch.cat([now[name] for name in kept], 1) if kept else memory


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def load(path):
    return read(pathlib.Path(path).read_bytes())


def read(data):
    end = 8 + int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8:end]), memoryview(data)[end:]
    facts = header.pop("__metadata__")
    stated, rows = facts.pop("digest", None), {}
    for name, e in header.items():
        rows[name] = [e["dtype"], e["shape"], sha256(body[slice(*e["data_offsets"])])]
    said = json.dumps({"metadata": facts, "tensors": rows}, sort_keys=True, separators=(",", ":"))
    if stated not in (None, sha256(said.encode())):
        raise ValueError("the file does not match its own digest")  # noqa: EM101
    every = json.loads(facts["export"])["agents"]
    named = [(name.split(".", 1), tensor) for name, tensor in safetensors.torch.load(data).items()]
    own = [{name: t for (k, name), t in named if k == str(i)} for i in range(len(every))]
    return {facts["agent"]: Agent(facts, t) for facts, t in zip(every, own)}
