from .accuracy import Accuracy as Accuracy
from .accuracy import measure as measure
from .against_dense import (
    DEFINITIONS as DEFINITIONS,
)
from .against_dense import (
    Evaluation as Evaluation,
)
from .against_dense import (
    Figures as Figures,
)
from .against_dense import (
    Pair as Pair,
)
from .against_dense import (
    evaluate as evaluate,
)
from .against_dense import (
    simulate_and_estimate as simulate_and_estimate,
)
from .scoring import Scores as Scores
from .scoring import score_network as score_network
from .thresholds import Point as Point
from .thresholds import sweep as sweep
