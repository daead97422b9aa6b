from .datasets import (
    DATASETS as DATASETS,
)
from .datasets import (
    DataSet as DataSet,
)
from .datasets import (
    Split as Split,
)
from .datasets import (
    load_dataset as load_dataset,
)
from .digits import load_digits as load_digits
from .images import load_images as load_images
