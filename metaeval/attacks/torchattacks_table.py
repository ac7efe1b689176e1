"""The attacks of `torchattacks` that the library itself runs, one row each; needs no torch.

FGSM, BIM, PGD, DeepFool and C&W have adapters of their own. Left out are LGV (it needs training data),
VANILA (it changes nothing), GN (it adds noise) and AutoAttack (its members, with the library's 10 iterations
in place of the published 100, are rows here; AutoAttack's own attacks are `apgd-ce` and its like).
"""

from __future__ import annotations

from metaeval.attacks.shapes import images, small, tiled
from metaeval.attacks.spec import Setting
from metaeval.attacks.torchattacks_row import (
    Row,
    apgd_passes,
    apgdt_passes,
    ead_passes,
    fab_passes,
    jsma_passes,
    neighbour_passes,
    one_pixel_passes,
    pixle_passes,
    product_passes,
    sparsefool_passes,
    spsa_passes,
    square_passes,
    tpgd_passes,
)

_STEPS = ("steps", Setting(10, "gradient steps", 1, 10))
_STEP_SIZE = ("alpha", Setting(0.25, "step size, as a fraction of epsilon", 0.0))
_PGD = {"iterations": _STEPS, "relative_step_size": _STEP_SIZE}
_DECAY = ("decay", Setting(1.0, "weight of the gradients before in the momentum", 0.0))
_NO_DECAY = ("decay", Setting(0.0, "weight of the gradients before in the momentum", 0.0))
_MOMENTUM = {**_PGD, "decay": _DECAY}
_DIVERSE = {
    **_PGD,
    "decay": _NO_DECAY,
    "resize_rate": ("resize_rate", Setting(0.9, "smallest size of the resized image, relative", 0.0)),
    "diversity_probability": ("diversity_prob", Setting(0.5, "share of steps on a resized image", 0.0)),
}
_NEIGHBOURS = {
    **_MOMENTUM,
    "neighbours": ("N", Setting(5, "points around each iterate for the gradients' variance", 1, 5)),
    "radius": ("beta", Setting(1.5, "distance of these points, as a multiple of epsilon", 0.0)),
}
_NOISE = {
    "samples": ("noise_batch_size", Setting(5, "noisy copies per gradient", 1, 5)),
    "noise": ("noise_sd", Setting(0.5, "standard deviation of the noise", 0.0)),
}
_PATCH = {
    "iterations": ("num_iter_set", Setting(10, "gradient steps", 1, 10)),
    "amplification": (
        "amplification",
        Setting(10.0, "step size, as a multiple of epsilon / iterations", 0.0),
    ),
}
_LINF, _L2, _L1 = "linf", "l2", "l1"
_ANY_IMAGE = images()
_AUTOATTACK = (
    "Croce and Hein 2020, Reliable evaluation of adversarial robustness with an ensemble of diverse "
    "parameter-free attacks"
)
_EAD = "Chen et al. 2018, EAD: elastic-net attacks to deep neural networks via adversarial examples"
_EAD_ARGUMENTS = {
    "binary_search_steps": ("binary_search_steps", Setting(9, "weights of misclassification tried", 1, 9)),
    "iterations": ("max_iterations", Setting(100, "gradient steps for each weight", 10, 100)),
    "learning_rate": ("lr", Setting(0.01, "first step size", 0.0)),
    "initial_weight": ("initial_const", Setting(0.001, "first weight of misclassification (c)", 0.0)),
    "regularization": ("beta", Setting(0.001, "weight of the l1 norm", 0.0)),
}

ROWS = (
    Row(
        "ffgsm",
        {_LINF: "FFGSM"},
        "Wong et al. 2020, Fast is better than free: revisiting adversarial training",
        product_passes(),
        {"relative_step_size": ("alpha", Setting(1.25, "step size, as a fraction of epsilon", 0.0))},
        inferable=False,  # one step, as with FGSM
    ),
    Row(
        "rfgsm",
        {_LINF: "RFGSM"},
        "Tramer et al. 2018, Ensemble adversarial training: attacks and defenses",
        product_passes("iterations"),
        _PGD,
    ),
    Row(
        "eotpgd",
        {_LINF: "EOTPGD"},
        "Zimmermann 2019, Comment on Adv-BNN: improved adversarial defense through robust Bayesian neural "
        "network",
        product_passes("iterations", "samples"),
        {**_PGD, "samples": ("eot_iter", Setting(2, "gradients averaged per step", 1, 2))},
    ),
    Row(
        "tpgd",
        {_LINF: "TPGD"},
        "Zhang et al. 2019, Theoretically principled trade-off between robustness and accuracy",
        tpgd_passes,
        _PGD,
    ),
    Row(
        "upgd",
        {_LINF: "UPGD"},
        "Kim 2020, Torchattacks: a PyTorch repository for adversarial attacks",
        product_passes("iterations", "samples"),
        {**_MOMENTUM, "samples": ("eot_iter", Setting(1, "gradients averaged per step", 1, 1))},
        unfit=_ANY_IMAGE,
    ),
    Row(
        "pgdrs",
        {_LINF: "PGDRS", _L2: "PGDRSL2"},
        "Salman et al. 2019, Provably robust deep learning via adversarially trained smoothed classifiers",
        product_passes("iterations", "samples"),
        {**_PGD, **_NOISE},
        alone=True,  # the batch that the model sees is a multiple of ours
        unfit=_ANY_IMAGE,
    ),
    Row(
        "apgd",
        {_LINF: "APGD", _L2: "APGD"},
        _AUTOATTACK,
        apgd_passes,
        {"iterations": _STEPS},
        takes_norm=True,
        unfit=_ANY_IMAGE,
    ),
    Row(
        "apgdt",
        {_LINF: "APGDT", _L2: "APGDT"},
        _AUTOATTACK,
        apgdt_passes,
        {"iterations": _STEPS, "targets": ("n_target_classes", Setting(9, "classes to aim at", 1, 9))},
        takes_norm=True,
        alone=True,  # it drops samples between targets
        minimum_classes=4,
        unfit=_ANY_IMAGE,
    ),
    Row(
        "mifgsm",
        {_LINF: "MIFGSM"},
        "Dong et al. 2018, Boosting adversarial attacks with momentum",
        product_passes("iterations"),
        _MOMENTUM,
        unfit=_ANY_IMAGE,
    ),
    Row(
        "nifgsm",
        {_LINF: "NIFGSM"},
        "Lin et al. 2020, Nesterov accelerated gradient and scale invariance for adversarial attacks",
        product_passes("iterations"),
        _MOMENTUM,
        unfit=_ANY_IMAGE,
    ),
    Row(
        "sinifgsm",
        {_LINF: "SINIFGSM"},
        "Lin et al. 2020, Nesterov accelerated gradient and scale invariance for adversarial attacks",
        product_passes("iterations", "scales"),
        {**_MOMENTUM, "scales": ("m", Setting(5, "scaled copies per gradient", 1, 5))},
        unfit=_ANY_IMAGE,
    ),
    Row(
        "difgsm",
        {_LINF: "DIFGSM"},
        "Xie et al. 2019, Improving transferability of adversarial examples with input diversity",
        product_passes("iterations"),
        _DIVERSE,
        alone=True,  # one size and position for the whole batch
        unfit=images(square=True, side=2),
    ),
    Row(
        "tifgsm",
        {_LINF: "TIFGSM"},
        "Dong et al. 2019, Evading defenses to transferable adversarial examples by translation-invariant "
        "attacks",
        product_passes("iterations"),
        {
            **_DIVERSE,
            "kernel_size": ("len_kernel", Setting(15, "side of the gradients' Gaussian kernel", 1)),
        },
        alone=True,  # as DIFGSM
        unfit=images(channels=3, square=True, side=2),
    ),
    Row(
        "vmifgsm",
        {_LINF: "VMIFGSM"},
        "Wang and He 2021, Enhancing the transferability of adversarial attacks through variance tuning",
        neighbour_passes,
        _NEIGHBOURS,
        unfit=_ANY_IMAGE,
    ),
    Row(
        "vnifgsm",
        {_LINF: "VNIFGSM"},
        "Wang and He 2021, Enhancing the transferability of adversarial attacks through variance tuning",
        neighbour_passes,
        _NEIGHBOURS,
        unfit=_ANY_IMAGE,
    ),
    Row(
        "jitter",
        {_LINF: "Jitter"},
        "Schwinn et al. 2023, Exploring misclassifications of robust neural networks to enhance adversarial "
        "attacks",
        product_passes("iterations"),
        {
            **_PGD,
            "scale": ("scale", Setting(10.0, "scale of the normalised logits", 0.0)),
            "noise": ("std", Setting(0.1, "standard deviation of the noise on the outputs", 0.0)),
        },
        unfit=_ANY_IMAGE,
    ),
    Row(
        "pifgsm",
        {_LINF: "PIFGSM"},
        "Gao et al. 2020, Patch-wise attack for fooling deep neural network",
        product_passes("iterations"),
        _PATCH,
        epsilon="max_epsilon",
        inferable=False,  # every step is as long as epsilon
        unfit=images(channels=3),
    ),
    Row(
        "pifgsmpp",
        {_LINF: "PIFGSMPP"},
        "Gao et al. 2020, Patch-wise++ perturbation for adversarial targeted attacks",
        product_passes("iterations"),
        {
            **_PATCH,
            "projection": ("project_factor", Setting(0.8, "step to the neighbours, relative", 0.0)),
        },
        epsilon="max_epsilon",
        inferable=False,  # as PIFGSM
        unfit=images(channels=3),
    ),
    Row(
        "spsa",
        {_LINF: "SPSA"},
        "Uesato et al. 2018, Adversarial risk and the dangers of evaluating against weak attacks",
        spsa_passes,
        {
            "iterations": ("nb_iter", Setting(1, "steps of Adam", 1, 1)),
            "samples": ("nb_sample", Setting(128, "pairs of queries per step", 1, 128)),
            "distance": ("delta", Setting(0.01, "distance of the queries", 0.0)),
            "learning_rate": ("lr", Setting(0.01, "learning rate of Adam, in inputs' units", 0.0)),
        },
        alone=True,  # one set of directions for the whole batch
        black_box=True,
        inferable=False,  # steps whose length does not depend on epsilon
    ),
    Row(
        "fab",
        {_LINF: "FAB", _L2: "FAB"},
        "Croce and Hein 2020, Minimally distorted adversarial examples with a fast adaptive boundary attack",
        fab_passes,
        {"iterations": ("steps", Setting(10, "projection steps", 1, 10))},
        epsilon=None,
        constants={"eps": 1e9},  # it throws adversarials beyond its epsilon away
        takes_norm=True,
    ),
    Row(
        "square",
        {_LINF: "Square", _L2: "Square"},
        "Andriushchenko et al. 2020, Square attack: a query-efficient black-box adversarial attack via "
        "random search",
        square_passes,
        {"queries": ("n_queries", Setting(5000, "forward passes", 1, 5000))},
        takes_norm=True,
        alone=True,  # one window for the whole batch
        black_box=True,
        early_exit=True,
        unfit=tiled,
    ),
    Row(
        "sparsefool",
        {_L1: "SparseFool"},
        "Modas et al. 2019, SparseFool: a few pixels make a big difference",
        sparsefool_passes,
        {
            "iterations": ("steps", Setting(10, "largest number of steps", 1, 10)),
            "sparsity": ("lam", Setting(3.0, "how far beyond the boundary, as a multiple (lambda)", 0.0)),
            "overshoot": ("overshoot", Setting(0.02, "step beyond the linearised boundary, relative", 0.0)),
        },
        epsilon=None,
        alone=True,
        unfit=_ANY_IMAGE,
    ),
    Row(
        "onepixel",
        {_L1: "OnePixel"},
        "Su et al. 2019, One pixel attack for fooling deep neural networks",
        one_pixel_passes,
        {
            "pixels": ("pixels", Setting(1, "pixels to change", 1, 1)),
            "iterations": ("steps", Setting(10, "generations of differential evolution", 1, 10)),
            "population": ("popsize", Setting(10, "candidates per generation", 1, 10)),
        },
        epsilon=None,
        alone=True,
        black_box=True,
        unfit=_ANY_IMAGE,
    ),
    Row(
        "pixle",
        {_L1: "Pixle"},
        "Pomponi et al. 2022, Pixle: a fast and effective black-box attack based on rearranging pixels",
        pixle_passes,
        {
            "restarts": ("restarts", Setting(20, "pixels rearranged for good", 1, 20)),
            "iterations": ("max_iterations", Setting(10, "rearrangements tried for each", 1, 10)),
        },
        epsilon=None,
        alone=True,
        black_box=True,
        unfit=images(square=True),
    ),
    Row(
        "jsma",
        {_L1: "JSMA"},
        "Papernot et al. 2016, The limitations of deep learning in adversarial settings",
        jsma_passes,
        {
            "theta": ("theta", Setting(1.0, "change of a feature", 0.0)),
            "gamma": ("gamma", Setting(0.1, "largest share of features to change", 0.0)),
        },
        epsilon=None,
        alone=True,
        unfit=small(1024),
    ),
    Row("eadl1", {_L1: "EADL1"}, _EAD, ead_passes, _EAD_ARGUMENTS, epsilon=None, alone=True),
    Row("eaden", {_L1: "EADEN"}, _EAD, ead_passes, _EAD_ARGUMENTS, epsilon=None, alone=True),
)
