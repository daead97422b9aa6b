from .model import estimate as estimate
