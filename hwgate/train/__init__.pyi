from .codesign import (
    BudgetLoss as BudgetLoss,
)
from .codesign import (
    NetworkCost as NetworkCost,
)
from .codesign import (
    measure_costs as measure_costs,
)
from .demo import Demo as Demo
from .demo import run_demo as run_demo
from .digits import TrainedDigits as TrainedDigits
from .digits import train_digits as train_digits
from .qat import Agreement as Agreement
from .qat import FakeQuantized as FakeQuantized
from .qat import agreement as agreement
from .recipe import Recipe as Recipe
from .recipe import load_recipe as load_recipe
from .recipe import recipe_names as recipe_names
from .runs import Run as Run
from .runs import run_recipe as run_recipe
from .trained import (
    build as build,
)
from .trained import (
    load_model as load_model,
)
from .trained import (
    load_teacher as load_teacher,
)
from .trained import (
    save_model as save_model,
)
from .trained import (
    start_from as start_from,
)
from .training import Epoch as Epoch
from .training import score as score
from .training import train as train
