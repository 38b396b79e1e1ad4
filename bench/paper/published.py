"""Numbers as printed in Song, Sebe, Wang, ICLR 2022 (arXiv 2201.08663): milliseconds, forward + backward, Tesla K40."""

SOURCE = "Song, Sebe, Wang, *Fast Differentiable Matrix Square Root*, ICLR 2022, arXiv 2201.08663"

WHITENING = {  # Tables 3 and 7
    "SVD-PI": 3.49,
    "SVD-Taylor": 3.41,
    "SVD-Pade": 3.39,
    "SVD-Lya": 4.47,
    "NS": 2.96,
    "NS-Lya": 2.87,
    "MPA-Lya": 2.52,
    "MTP-Lya": 2.36,
}
POOLING = {  # Table 4
    "PI": 1.84,
    "SVD-PI": 83.43,
    "SVD-Taylor": 83.29,
    "SVD-Pade": 83.25,
    "NS": 10.38,
    "MPA-Lya": 3.25,
    "MTP-Lya": 2.39,
}
DEGREES = {3: 0.80, 4: 0.86, 5: 0.93, 6: 0.98}  # Table 5, forward; the chosen degree 5 is the last row there
TERMINATION = {"BS": 2.34, 5: 1.05, 6: 1.23, 7: 1.43, 8: 1.59, 9: 1.73}  # Table 6, backward
LARGE = {  # Table 8, at n = 256, 512, 1024
    "MTP-Lya": (4.88, 5.43, 7.32),
    "MPA-Lya": (5.56, 7.47, 11.28),
    "NS": (6.28, 9.86, 12.69),
}
COVARIANCE_POOLING = {"MPA-Lya": 110.61, "NS": 164.43}  # Table 9
NOT_REPRODUCED = {
    "Table 3": "validation errors on CIFAR-10 and CIFAR-100",
    "Table 4": "ImageNet accuracies and epochs",
    "Tables 5, 6, 7": "CIFAR error columns",
    "Table 9": "ImageNet accuracies",
}
