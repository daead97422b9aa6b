from .layer import (
    LayerSchedule as LayerSchedule,
)
from .layer import (
    end_cycles as end_cycles,
)
from .layer import (
    schedule_layer as schedule_layer,
)
from .open_pixels import OpenPixels as OpenPixels
