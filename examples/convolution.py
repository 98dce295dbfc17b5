"""A convolutional network on images of digits: batch norm per channel, over the batch and all positions."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import truenorm as tn

torch.manual_seed(0)
digits = load_digits()  # 1,797 images of 8×8, which come with scikit-learn
order = torch.randperm(len(digits.target))
images = torch.tensor(digits.images, dtype=torch.float32)[order, None] / 16
labels = torch.tensor(digits.target)[order]
train, test = slice(0, 1400), slice(1400, None)

network = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
    nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
    nn.Flatten(), nn.Linear(512, 10),
)  # fmt: skip
tn.convert(network)  # in place; the same as to write tn.nn.BatchNorm2d
convolution, norm = network[:2]
print(norm)

# One mean and one variance for each of 16 channels; after one batch the running statistics are those of the batch.
batch = images[train][:32]
network(batch)
with torch.no_grad():
    maps = convolution(batch)
mean, var = maps.mean((0, 2, 3)), maps.var((0, 2, 3), correction=0)
print(f"{tuple(maps.shape)} (N, C, H, W) → {tuple(norm.running_mean.shape)}; after one batch", end=" ")
print(f"the mean is off by {(norm.running_mean - mean).abs().max():.0e}", end=", ")
print(f"the variance by {(norm.running_var - var).abs().max():.0e}")

optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)
for _ in range(5):
    for rows in torch.randperm(1400).split(32):
        loss = F.cross_entropy(network(images[train][rows]), labels[train][rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

network.eval()
with torch.no_grad():
    together = network(images[test])
    alone = torch.cat([network(image) for image in images[test].split(1)])
accuracy = (together.argmax(1) == labels[test]).float().mean()
print(f"test accuracy {100 * accuracy:.1f} % of {len(together)} images")
print(f"an image alone or among {len(together)}: logits differ by at most {(together - alone).abs().max():.0e}")
print(f"and back: {type(tn.convert(network, to='torch')[1]).__module__}")
