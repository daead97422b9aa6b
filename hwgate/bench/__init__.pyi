from .command import main as main
from .dense import (
    MACS as MACS,
)
from .dense import (
    PEERS as PEERS,
)
from .dense import (
    SHAPES as SHAPES,
)
from .dense import (
    Peer as Peer,
)
from .dense import (
    dense_layer as dense_layer,
)
