from .atomic import write_atomic as write_atomic
from .networks import load_network as load_network
from .networks import save_network as save_network
from .tensors import read_safetensors as read_safetensors
from .tensors import write_safetensors as write_safetensors
