"""What is true, computed the plainest way: NumPy, float64, loops. Shares no code with truenorm.

Shapes: N samples, C channels, T batches. A stream is a list of (mean_C, biased var_C, count).
"""

import math

import numpy as np


def values_of(x):
    """Activations (N, C, ...) → the values of each channel, float64, of shape (n, C)."""
    x = np.asarray(x, dtype=np.float64)
    return np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])


def moments(x):
    """Mean, biased variance and count of each channel, two passes."""
    values = values_of(x)
    mean = values.mean(0)
    return mean, ((values - mean) ** 2).mean(0), len(values)


def stream_of(batches):
    """Batches of activations → a stream."""
    return [moments(batch) for batch in batches]


def unbiased(var, count):
    return var * count / (count - 1)


def static(stream, momentum):
    """torch: running = (1 − m)·running + m·new, unbiased variances, from 0 and 1."""
    mean, var = np.zeros_like(stream[0][0]), np.ones_like(stream[0][0])
    for m, v, n in stream:
        mean = (1 - momentum) * mean + momentum * m
        var = (1 - momentum) * var + momentum * unbiased(v, n)
    return mean, var


def switched(stream, momentum_of_step):
    mean, var = np.zeros_like(stream[0][0]), np.ones_like(stream[0][0])
    for t, (m, v, n) in enumerate(stream):
        a = momentum_of_step(t)
        mean, var = (1 - a) * mean + a * m, (1 - a) * var + a * unbiased(v, n)
    return mean, var


def cumulative(stream):
    """torch with momentum=None: every batch weighs the same."""
    mean = np.mean([m for m, _, _ in stream], axis=0)
    return mean, np.mean([unbiased(v, n) for _, v, n in stream], axis=0)


def pooled(stream, momentum):
    """The recursion of the design: a = max(momentum, 1/t)."""
    mean, var = np.zeros_like(stream[0][0]), np.ones_like(stream[0][0])
    for t, (m, v, _) in enumerate(stream, start=1):
        a = max(momentum, 1 / t)
        delta = m - mean
        mean = mean + a * delta
        var = (1 - a) * var + a * v + a * (1 - a) * delta**2
    return mean, var


def population(stream):
    """Mean, biased variance and count of all values of all batches."""
    total = sum(n for _, _, n in stream)
    mean = sum(n * m for m, _, n in stream) / total
    return mean, sum(n * (v + (m - mean) ** 2) for m, v, n in stream) / total, total


def design_effect(stream):
    """n̄·(unbiased variance of the batches' means)/σ², mean over channels that vary; batches of one size."""
    mean, var, _ = population(stream)
    between = sum(n * (m - mean) ** 2 for m, _, n in stream) / (len(stream) - 1)
    return float(np.mean((between / var)[var > 0]))


def mixture(keep, mean, var, weights, batch_means, batch_vars):
    """Moments of a weighted mixture of what was stored and T batches; channels and rules one by one."""
    out_mean, out_var = np.empty_like(mean), np.empty_like(var)
    for k in range(mean.shape[0]):
        for c in range(mean.shape[1]):
            w = [keep[k], *weights[k]]
            m = [mean[k, c], *batch_means[:, c]]
            v = [var[k, c], *batch_vars[:, c]]
            mu = math.fsum(a * b for a, b in zip(w, m, strict=True))
            out_mean[k, c] = mu
            out_var[k, c] = math.fsum(a * (b + (d - mu) ** 2) for a, b, d in zip(w, v, m, strict=True))
    return out_mean, out_var


def adaptive(stream, alphas, eps):
    """The specification of `adaptive` step by step, one layer. Gives (means [K], variances [K], scores [K])."""
    K = len(alphas)
    M, V, s = [None] * K, [None] * K, np.zeros(K)
    t = 0
    for m, v, _ in stream:
        if not (np.isfinite(m).all() and np.isfinite(v).all()):
            continue
        t += 1
        for k, alpha in enumerate(alphas):
            if t >= 2:
                loss = np.mean(np.log(V[k] + eps) + (v + eps + (m - M[k]) ** 2) / (V[k] + eps))
                s[k] += max(0.01, 20 / (t + 18)) * (loss - s[k])
            a = alpha / (1 - (1 - alpha) ** t)
            if t == 1:
                M[k], V[k] = m.copy(), v.copy()
            else:
                delta = m - M[k]
                V[k] = (1 - a) * (V[k] + a * delta**2) + a * v
                M[k] = M[k] + a * delta
    return M, V, s


def online(stream, momenta, eps):
    """torch's statistics under each momentum, scored before each update by scale-free squared error."""
    K, C = len(momenta), len(stream[0][0])
    M, V, s = np.zeros((K, C)), np.ones((K, C)), np.zeros(K)
    for t, (m, v, n) in enumerate(stream):
        u = unbiased(v, n)
        for k, a in enumerate(momenta):
            loss = np.mean(((m - M[k]) ** 2 + (np.sqrt(u) - np.sqrt(V[k])) ** 2) / (u + eps))
            s[k] += (0.01 if t else 1.0) * (loss - s[k])
            M[k], V[k] = (1 - a) * M[k] + a * m, (1 - a) * V[k] + a * u
    return M, V, s


def shift(mean, var, true_mean, true_var):
    """S of one layer, channel by channel from the definition of relative entropy."""
    total = 0.0
    for mu_hat, v_hat, mu, v in zip(mean, var, true_mean, true_var, strict=True):
        total += 2 * (0.5 * math.log(v_hat / v) + (v + (mu - mu_hat) ** 2) / (2 * v_hat) - 0.5)
    return math.sqrt(total / len(mean))


# A small network, forward by hand: Linear → BN → ReLU → Linear → BN → Linear, as `nets.plain` builds it.


def normalise(x, mean, var, weight, bias, eps):
    return (x - mean) / np.sqrt(var + eps) * weight + bias


class TwoLayers:
    """The three flows of a network of two batch norms, by the definitions."""

    def __init__(self, state, eps=1e-5):
        self.p = {key: np.asarray(value, dtype=np.float64) for key, value in state.items()}
        self.eps = eps

    def _first(self, x):
        return x @ self.p["fc1.weight"].T + self.p["fc1.bias"]

    def _second(self, x, mean, var):
        p = self.p
        h = normalise(x, mean, var, p["bn1.weight"], p["bn1.bias"], self.eps)
        return np.maximum(h, 0) @ p["fc2.weight"].T + p["fc2.bias"]

    def joint(self, batches):
        first, second = [], []
        for x in batches:
            a = self._first(np.asarray(x, dtype=np.float64))
            first.append(moments(a))
            second.append(moments(self._second(a, *first[-1][:2])))
        return {"bn1": population(first), "bn2": population(second)}

    def eval(self, batches):
        p = self.p
        a = self._first(np.concatenate([np.asarray(x, dtype=np.float64) for x in batches]))
        b = self._second(a, p["bn1.running_mean"], p["bn1.running_var"])
        return {"bn1": moments(a), "bn2": moments(b)}

    def sequential(self, batches):
        a = self._first(np.concatenate([np.asarray(x, dtype=np.float64) for x in batches]))
        first = moments(a)
        return {"bn1": first, "bn2": moments(self._second(a, *first[:2]))}
