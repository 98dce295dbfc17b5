"""Dense → batch norm → ReLU → dropout, twice, with L2 on the weights: the tutorials' network, with our layers."""

import torch
from torch import nn
from torch.nn import functional as F

import truenorm as tn

torch.manual_seed(0)
network = nn.Sequential(
    nn.Linear(20, 64),
    tn.nn.BatchNorm1d(64),
    nn.ReLU(),
    nn.Dropout(0.3),
    nn.Linear(64, 32),
    tn.nn.BatchNorm1d(32),
    nn.ReLU(),
    nn.Dropout(0.3),
    nn.Linear(32, 1),
)

# What Keras calls non-trainable are the stored means and variances (torch's counts of batches aside).
stored = [b for name, b in network.named_buffers() if not name.endswith("num_batches_tracked")]
trainable = sum(p.numel() for p in network.parameters())
for name, layer in network.named_children():
    parameters = sum(p.numel() for p in layer.parameters())
    print(f"{name}  {type(layer).__name__:12} {parameters:6,} trainable")
not_trainable = sum(b.numel() for b in stored)
print(f"{trainable + not_trainable:,} parameters: {trainable:,} trainable, {not_trainable:,} not")

# L2 belongs on the weights alone: weight decay on γ and β is another thing.
weights = [layer.weight for layer in network if isinstance(layer, nn.Linear)]
others = [p for p in network.parameters() if all(p is not weight for weight in weights)]
optimizer = torch.optim.SGD([{"params": weights, "weight_decay": 1e-3}, {"params": others}], 0.05, momentum=0.9)

x = torch.randn(1000, 20)
y = (x[:, :2].sum(1, keepdim=True) > 0).float()  # something that can be learnt
for _ in range(10):
    for rows in torch.randperm(len(x)).split(32):
        loss = F.binary_cross_entropy_with_logits(network(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

network.eval()
with torch.no_grad():
    together, alone = network(x), torch.cat([network(row) for row in x.split(1)])
print(f"accuracy {100 * ((together > 0) == (y > 0)).float().mean():.1f} %")
print(f"a sample alone or among {len(x)}: logits differ by at most {(together - alone).abs().max():.0e}")
