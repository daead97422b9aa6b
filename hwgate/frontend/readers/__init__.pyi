from .torch_reader import read_torch as read_torch
