"""Convolution → batch norm → activation: each channel over the batch and all positions, and one line to convert."""

import torch
from torch import nn

import truenorm as tn

torch.manual_seed(0)
network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
tn.convert(network)  # in place; the same training, other statistics
print(network[1])

images = torch.rand(16, 3, 32, 32)
network(images)
with torch.no_grad():
    maps = network[0](images)  # (N, C, H, W): one mean and variance for each of 8 channels
mean, var = maps.mean((0, 2, 3)), maps.var((0, 2, 3), correction=0)
print(f"after one batch: mean off by {(network[1].running_mean - mean).abs().max():.0e}", end=", ")
print(f"variance by {(network[1].running_var - var).abs().max():.0e}")

network.eval()
with torch.no_grad():
    one, many = network(images[:1]), network(images)[:1]
print(f"inference is the same in a batch of 1 and of 16: {torch.allclose(one, many, atol=1e-6)}")
print(f"and back: {type(tn.convert(network, to='torch')[1]).__module__}")
