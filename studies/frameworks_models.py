"""The models of frameworks.toml: one small network in three frameworks, and two black boxes.

The network's weights are in frameworks.safetensors, as torch has them. This file, run, trains them anew.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

TRAINED = 1297  # digits; the others are the test split


def digits():
    """Return the training images (n, 1, 8, 8) in [0, 1] of scikit-learn's digits, and their labels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return (data.data[:TRAINED] / 16).astype(np.float32).reshape(-1, 1, 8, 8), data.target[:TRAINED]


def torch_network():
    """Return the network of torch: two convolutions without padding, pooling, a linear layer."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(1, 12, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(12, 24, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24 * 2 * 2, 10),
    )


def channels_last(weights):
    """Return kernel and bias of each layer, from a file of torch's, for inputs with their channels last."""
    w = load_file(weights)
    linear = w["6.weight"].reshape(10, 24, 2, 2).transpose(2, 3, 1, 0).reshape(-1, 10)
    kernels = [w["0.weight"].transpose(2, 3, 1, 0), w["3.weight"].transpose(2, 3, 1, 0), linear]
    return list(zip(kernels, [w["0.bias"], w["3.bias"], w["6.bias"]], strict=True))


def flax_network(weights):
    """Return the network of Flax and its variables."""
    from flax import linen as nn

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(12, (3, 3), padding="VALID")(x))
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
            x = nn.relu(nn.Conv(24, (2, 2), padding="VALID")(x))
            return nn.Dense(10)(x.reshape(len(x), -1))

    layers = zip(("Conv_0", "Conv_1", "Dense_0"), channels_last(weights), strict=True)
    return Network(), {"params": {layer: {"kernel": k, "bias": b} for layer, (k, b) in layers}}


def keras_network(weights):
    """Return the network of Keras."""
    import keras

    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(12, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(24, 2, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    model.set_weights([value for layer in channels_last(weights) for value in layer])
    return model


def forest(trees=30):
    """Return a random forest of scikit-learn."""
    from sklearn.ensemble import RandomForestClassifier

    x, y = digits()
    return RandomForestClassifier(trees, random_state=0).fit(x.reshape(len(x), -1), y)


def nearest_means(sharpness=20.0):
    """Return a function from images to probabilities, by distance to the mean image of each class."""
    x, y = digits()
    means = np.stack([x[y == label].reshape(-1, 64).mean(axis=0) for label in range(10)])

    def predict_proba(images):
        distance = ((images.reshape(len(images), 1, 64) - means) ** 2).sum(axis=2)
        scores = np.exp(-sharpness * (distance - distance.min(axis=1, keepdims=True)))
        return scores / scores.sum(axis=1, keepdims=True)

    return predict_proba


def train(epochs=12):
    """Train the network and write its weights."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    torch.set_num_threads(1)
    x, y = (torch.from_numpy(part) for part in digits())
    network = torch_network()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.005)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
            optimizer.step()
    save_file(network.state_dict(), Path(__file__).with_name("frameworks.safetensors"))


if __name__ == "__main__":
    train()
