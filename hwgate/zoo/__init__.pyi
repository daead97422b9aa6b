from .networks import (
    baseline as baseline,
)
from .networks import (
    epochs as epochs,
)
from .networks import (
    load as load,
)
from .networks import (
    names as names,
)
from .networks import (
    path as path,
)
from .networks import (
    results as results,
)
from .networks import (
    trained as trained,
)
