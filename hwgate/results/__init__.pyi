from .comparison import (
    Comparison as Comparison,
)
from .comparison import (
    Difference as Difference,
)
from .comparison import (
    LayerComparison as LayerComparison,
)
from .comparison import (
    compare as compare,
)
from .run import LayerResult as LayerResult
from .run import RunResult as RunResult
