"""Images and their classes: CIFAR-10, MNIST, scikit-learn's digits, and those of a user's file."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
