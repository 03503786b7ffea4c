"""PyTorch: channels-last, eager or torch.compile in a mode such as COMPILE=default; on a GPU if there is one."""

import os
from functools import partial

import numpy as np
import torch
from task import Task, serve
from torch import nn
from torch.nn import functional as F

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PRECISION = os.environ.get("PRECISION", "float32")


def layer(task: Task, name: str, kind: type[nn.Module]) -> nn.Module:
    """A layer with the task's parameters, brought into PyTorch's layout."""
    kernel, bias = (torch.tensor(task.params[f"{name}.{leaf}"]) for leaf in ("kernel", "bias"))
    inputs, outputs = kernel.shape[-2:]
    if kind is nn.Linear:
        made, weight = nn.Linear(inputs, outputs), kernel.T
    elif kind is nn.Conv2d:
        made, weight = nn.Conv2d(inputs, outputs, 3, padding=1), kernel.permute(3, 2, 0, 1)
    else:
        made, weight = nn.ConvTranspose2d(inputs, outputs, 3, padding=1), kernel.flip(0, 1).permute(2, 3, 0, 1)
    with torch.no_grad():
        made.weight.copy_(weight)
        made.bias.copy_(bias)
    return made


class Conv(nn.Module):
    """The tutorial's convolutional model."""

    def __init__(self, task: Task) -> None:
        """Layers from the task's parameters."""
        super().__init__()
        self.convs = nn.ModuleList(layer(task, f"encoder.Conv_{i}", nn.Conv2d) for i in range(2))
        self.features = layer(task, "encoder.Dense_0", nn.Linear)
        self.mean, self.log_var = (layer(task, f"posterior.{n}", nn.Linear) for n in ("mean", "log_var"))
        self.dense = layer(task, "decoder.Dense_0", nn.Linear)
        self.transposed = nn.ModuleList(layer(task, f"decoder.Conv_{i}", nn.ConvTranspose2d) for i in range(3))

    def encode(self, x):
        """Mean and log-variance."""
        for conv in self.convs:
            x = F.max_pool2d(F.relu(conv(x)), 2)
        h = F.relu(self.features(x.permute(0, 2, 3, 1).flatten(1)))
        return self.mean(h), self.log_var(h)

    def decode(self, z):
        """Logits."""
        first, second, last = self.transposed
        h = F.relu(self.dense(z)).view(-1, 7, 7, 64).permute(0, 3, 1, 2)  # channels-last in memory
        h = F.interpolate(F.relu(first(h)), scale_factor=2.0)
        h = F.interpolate(F.relu(second(h)), scale_factor=2.0)
        return last(h)


class Gated(nn.Module):
    """The gated MLP."""

    def __init__(self, task: Task) -> None:
        """Layers from the task's parameters."""
        super().__init__()
        names = [f"GatedDense_{i}.{part}" for i in (0, 1) for part in ("value", "gate")]
        self.encoder = nn.ModuleList(layer(task, f"encoder.{name}", nn.Linear) for name in names)
        self.mean, self.log_var = (layer(task, f"posterior.{n}", nn.Linear) for n in ("mean", "log_var"))
        self.decoder = nn.ModuleList(layer(task, f"decoder.{name}", nn.Linear) for name in [*names, "Dense_0"])

    def encode(self, x):
        """Mean and log-variance."""
        h = x.flatten(1)
        for i in (0, 2):
            h = self.encoder[i](h) * torch.sigmoid(self.encoder[i + 1](h))
        return self.mean(h), self.log_var(h)

    def decode(self, z):
        """Logits."""
        for i in (0, 2):
            z = self.decoder[i](z) * torch.sigmoid(self.decoder[i + 1](z))
        return self.decoder[4](z).view(-1, 1, 28, 28)


def prepare(task: Task):
    """Images are floats in memory, as channels-last wants them."""
    torch.manual_seed(0)
    torch.set_num_threads(os.cpu_count() or 1)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = PRECISION == "tf32"
    torch.backends.cudnn.benchmark = True
    model = (Conv if task.model == "tutorial_conv" else Gated)(task).to(DEVICE, memory_format=torch.channels_last)
    mode = os.environ.get("COMPILE")
    compiled = partial(torch.compile, mode=mode) if mode else lambda function: function

    if task.kind == "decode":
        decode, latents = compiled(model.decode), torch.tensor(task.latents, device=DEVICE)

        @torch.inference_mode()
        def decode_all(times: int) -> float:
            for _ in range(times):
                last = torch.sigmoid(decode(latents))
            return float(last.mean())

        decode_all(1)
        return decode_all

    def negative_elbo(x):
        with torch.autocast(DEVICE, torch.bfloat16, enabled=PRECISION == "bfloat16"):
            mean, log_var = (head.float() for head in model.encode(x))
            logits = model.decode(mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)).float()
        cross_entropy = (F.softplus(logits) - x * logits).sum((1, 2, 3))
        kl = -0.5 * (1 + log_var - mean**2 - log_var.exp()).sum(-1)
        return (cross_entropy + kl).mean()

    loss_of = compiled(negative_elbo)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    images = torch.tensor(task.images.astype(np.float32).transpose(0, 3, 1, 2) / 255)
    images = images.to(DEVICE, memory_format=torch.channels_last)
    step = 0

    def train(amount: int) -> float:
        nonlocal step
        total = torch.zeros((), device=DEVICE)
        for rows in task.batches(step, amount):
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(images[rows[0] : rows[-1] + 1])
            loss.backward()
            optimizer.step()
            total, step = total + loss.detach(), step + 1
        return float(total) / amount

    return train


serve(prepare)
